//! What the benchmarks share: arguments, databases of their own, processes, tables of results.

pub(crate) mod arguments;
pub(crate) mod compare;
pub(crate) mod database;
pub(crate) mod process;
pub(crate) mod table;
pub(crate) mod visible;

use ledger::NewEntry;

/// What a benchmark's function gives.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// An entry whose payload is a JSON text of about `bytes` bytes, as orders would be: half of it
/// hard to compress, with an order key, a metadata pair and a tag.
pub(crate) fn entry(number: u64, bytes: usize) -> NewEntry {
    let noise = |salt: u64| (number ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let head = format!(
        r#"{{"order":{number},"token":"{:016x}{:016x}{:016x}","amount":{}.{:02},"note":""#,
        noise(1),
        noise(2),
        noise(3),
        number % 900,
        number % 100
    );
    let note = bytes.saturating_sub(head.len() + 2);
    let payload = format!("{head}{:<note$}\"}}", format!("{:x}", noise(4)));
    NewEntry::new(payload)
        .order_key(format!("order-{number}"))
        .meta("region", format!("eu-{}", number % 7))
        .tag("new")
}

/// A number as a float, to be divided.
#[allow(
    clippy::cast_precision_loss,
    reason = "no count here comes near 2^52, and results are rounded"
)]
pub(crate) fn float(number: u64) -> f64 {
    number as f64
}

//! Webhooks: deliveries a second beside a bare HTTP client that posts the same bodies; how soon an
//! append reaches its receiver; what ten thousand streams cost of which few are active.

#[allow(dead_code, reason = "each benchmark uses its part of it")]
mod measure;
mod posted;

use measure::Outcome;
use measure::arguments::Arguments;
use posted::{arrival, rates};

/// One thread for the sender; the receivers have one of their own.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let arguments = Arguments::read(
        "webhook",
        &[
            ("parts", "rates,arrival", "what is measured"),
            ("entries", "20000", "entries of a round that go one by one"),
            (
                "batches",
                "2000",
                "deliveries of a round that hold 100 entries",
            ),
            ("receivers", "1,100", "how many receivers share them"),
            ("rounds", "3", "how often each is measured, in turns"),
            ("bytes", "280", "bytes of a payload"),
            ("rate", "1000", "appends a second whose arrival is measured"),
            ("seconds", "10", "how long"),
            ("streams", "100,10000", "streams that there are"),
            ("active", "100", "streams that are appended to"),
        ],
    )?;
    for part in arguments.list::<String>("parts")? {
        match part.as_str() {
            "rates" => rates::measure(&arguments).await?,
            "arrival" => arrival::measure(&arguments).await?,
            other => return Err(format!("--parts: {other:?} is no part").into()),
        }
    }
    Ok(())
}

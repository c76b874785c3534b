//! The daemon's service: single appends and reads of 100 by many clients, beside the same calls on
//! the store in the process, and beside a tonic service that does nothing; how soon an append
//! reaches a thousand tails; what ten thousand idle tails cost.

#[allow(dead_code, reason = "each benchmark uses its part of it")]
mod measure;
mod served;

use measure::Outcome;
use measure::arguments::Arguments;
use served::{calls, nothing, server, tails};

#[tokio::main]
async fn main() -> Outcome {
    // The floor is this program again, as a server.
    if let Some(address) = server::asked_to_serve_nothing() {
        return nothing::serve(&address).await;
    }
    let arguments = Arguments::read(
        "service",
        &[
            ("parts", "calls,tails,idle", "what is measured"),
            ("backends", "sqlite,postgres", "the daemon's databases"),
            ("clients", "64", "how many append and read at once"),
            ("seconds", "3", "how long a call is measured in a round"),
            ("rounds", "5", "how often each is measured, in turns"),
            ("bytes", "280", "bytes of a payload"),
            ("tails", "1000", "tails that an append is to reach"),
            ("appends", "100", "appends whose arrival is measured"),
            ("idle", "10000", "tails in which nothing happens"),
            ("connections", "100", "connections of the tails"),
        ],
    )?;
    for part in arguments.list::<String>("parts")? {
        match part.as_str() {
            "calls" => calls::measure(&arguments).await?,
            "tails" => tails::arrival(&arguments).await?,
            "idle" => tails::idle(&arguments).await?,
            other => return Err(format!("--parts: {other:?} is no part").into()),
        }
    }
    Ok(())
}

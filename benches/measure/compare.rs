//! Comparing with the floor, in turns.

use std::time::Duration;

use super::{Outcome, float};

/// What two ways of doing the same came to.
pub(crate) struct Compared {
    /// Rows a second of ours, the median.
    pub(crate) ours: f64,
    /// Rows a second of the floor, the median.
    pub(crate) floor: f64,
    /// Ours by the floor, the median of the rounds: above 1 ours is the faster one.
    pub(crate) ratio: f64,
}

/// Measures both in each round, the first one changing from round to round, so that what slows the
/// machine down meets both. A round before them warms up and does not count. Each is given the
/// number of the round, and gives the time that its rows took.
pub(crate) async fn in_turns(
    rounds: u64,
    rows: u64,
    mut ours: impl AsyncFnMut(u64) -> Outcome<Duration>,
    mut floor: impl AsyncFnMut(u64) -> Outcome<Duration>,
) -> Outcome<Compared> {
    let (mut our_rates, mut floor_rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (our_time, floor_time) = if round % 2 == 0 {
            let first = ours(round).await?;
            (first, floor(round).await?)
        } else {
            let first = floor(round).await?;
            (ours(round).await?, first)
        };
        if round > 0 {
            our_rates.push(float(rows) / our_time.as_secs_f64());
            floor_rates.push(float(rows) / floor_time.as_secs_f64());
            ratios.push(floor_time.as_secs_f64() / our_time.as_secs_f64());
        }
    }
    Ok(Compared {
        ours: quantile(&mut our_rates, 0.5),
        floor: quantile(&mut floor_rates, 0.5),
        ratio: quantile(&mut ratios, 0.5),
    })
}

/// The value that this part of the values lies at or below; NaN where there are none.
pub(crate) fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a slice of this length"
    )]
    let index = (values.len() as f64 * part).ceil() as usize;
    let found = values.get(index.saturating_sub(1));
    found.copied().unwrap_or(f64::NAN)
}

/// Milliseconds, with as many digits as mean something.
pub(crate) fn milliseconds(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}

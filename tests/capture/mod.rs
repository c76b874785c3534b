//! Tables of a real PostgreSQL, captured into the real ClickHouse engine.

mod changes;
mod ends;
mod faults;
mod idle;
mod selection;
mod shapes;
mod sql;
mod standby;
mod tls;
mod types;

/// Each case on today's engine and on the oldest supported one.
macro_rules! on_both_engines {
    ($($name:ident),* $(,)?) => {
        mod today {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                Box::pin(super::$name(crate::capture::ends::Engine::Today)).await;
            })*
        }
        mod oldest {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                Box::pin(super::$name(crate::capture::ends::Engine::Oldest)).await;
            })*
        }
    };
}
pub(crate) use on_both_engines;

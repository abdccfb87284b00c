//! The only place in the harness that sleeps: a bounded, named wait.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The first pause.
    pub first: Duration,
    /// The longest pause; pauses grow by half up to it.
    pub longest: Duration,
}

impl Pace {
    /// For answers that take milliseconds.
    pub const QUICK: Pace = Pace {
        first: Duration::from_millis(5),
        longest: Duration::from_millis(100),
    };
    /// For what takes seconds, such as a guest that boots.
    pub const SLOW: Pace = Pace {
        first: Duration::from_millis(100),
        longest: Duration::from_millis(500),
    };
}

/// The condition did not come to hold in time.
#[derive(Debug, Clone, thiserror::Error)]
#[error("waited {} s for {what}", waited.as_secs())]
pub struct TimedOut {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub waited: Duration,
}

/// Asks `condition` until it gives a value, at most for `limit`.
///
/// The condition is asked at least once. What it returns as an error ends the wait at once; a
/// condition that should survive an error maps it to `Ok(None)`.
///
/// # Errors
/// The condition's own error, or [`TimedOut`].
pub async fn poll<T, E, F>(
    what: &str,
    limit: Duration,
    pace: Pace,
    mut condition: F,
) -> Result<T, E>
where
    F: AsyncFnMut() -> Result<Option<T>, E>,
    E: From<TimedOut>,
{
    let start = Instant::now();
    let mut pause = pace.first;
    loop {
        if let Some(value) = condition().await? {
            return Ok(value);
        }
        let waited = start.elapsed();
        if waited >= limit {
            return Err(TimedOut {
                what: what.to_owned(),
                waited,
            }
            .into());
        }
        tokio::time::sleep(pause.min(limit - waited)).await;
        pause = (pause * 3 / 2).min(pace.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_poll_ends_with_the_value() {
        let mut left = 3;
        let value = poll(
            "three looks",
            Duration::from_secs(5),
            Pace::QUICK,
            async || {
                left -= 1;
                Ok::<_, TimedOut>((left == 0).then_some("there"))
            },
        )
        .await;
        assert_eq!(value.unwrap(), "there");
    }

    #[tokio::test]
    async fn a_poll_that_never_holds_names_what_it_waited_for() {
        let error = poll(
            "the moon",
            Duration::from_millis(20),
            Pace::QUICK,
            async || Ok::<Option<()>, TimedOut>(None),
        )
        .await
        .unwrap_err();
        assert!(error.to_string().contains("the moon"), "{error}");
    }
}

//! The one place that sleeps: a bounded poll whose pauses grow from 5 ms to 100 ms.

use std::{
    thread,
    time::{Duration, Instant},
};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Asks `check` until it gives a value, and gives up with `None` when `limit` has passed.
pub fn until<T, E>(
    limit: Duration,
    mut check: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(value) = check()? {
            return Ok(Some(value));
        }
        let left = limit.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        thread::sleep(pause.min(left));
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_value_or_none_when_time_is_up() {
        let mut left = 3;
        let found = until::<_, ()>(Duration::from_secs(5), || {
            left -= 1;
            Ok((left == 0).then_some("done"))
        });
        assert_eq!(found, Ok(Some("done")));
        assert_eq!(
            until::<(), ()>(Duration::from_millis(12), || Ok(None)),
            Ok(None)
        );
        assert_eq!(
            until::<(), _>(Duration::from_secs(5), || Err("broken")),
            Err("broken")
        );
    }
}

//! Moments and spans of time as people read them.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment in RFC 3339, UTC, in whole seconds; a fraction is dropped. Moments before 1970 are
/// told as 1970.
pub(crate) fn moment(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since.map_or(Ok(0), |since| i64::try_from(since.as_secs()));
    let at = seconds.map(OffsetDateTime::from_unix_timestamp);
    match at {
        Ok(Ok(at)) => at.format(&Rfc3339).unwrap_or_default(),
        _ => "after the year 9999".to_owned(),
    }
}

/// A moment, and how far it is from `now`: `2026-03-01T10:00:00Z (in 59 min)`.
pub(crate) fn moment_from(at: SystemTime, now: SystemTime) -> String {
    match at.duration_since(now) {
        Ok(left) => format!("{} (in {})", moment(at), span(left)),
        Err(over) => format!("{} ({} ago)", moment(at), span(over.duration())),
    }
}

/// A span of time in its two largest units, rounded down.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_its_two_largest_units() {
        for (seconds, told) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (3_725, "1 h 2 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), told);
        }
    }

    #[test]
    fn no_moment_is_too_far() {
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60);
        assert_eq!(moment(far), "after the year 9999");
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(moment(before), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_moment_has_its_distance() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        let before = now - Duration::from_millis(59_500);
        assert_eq!(moment_from(before, now), "1970-01-01T00:00:00Z (59 s ago)");
        assert_eq!(
            moment_from(now + Duration::from_secs(1), now),
            "1970-01-01T00:01:01Z (in 1 s)"
        );
    }
}

//! Decision ids: UUIDs version 7 (RFC 9562 section 5.7), random anew in each millisecond and counted
//! up within it (section 6.2, method 2), so that a busy worker does not draw randomness for every
//! call. They are unique and ordered, and no secret.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;

/// The bits that are counted up: all below the variant.
const COUNTED: u128 = (1 << 62) - 1;

thread_local! {
    /// The last id of this thread, and the millisecond that it was made in.
    static LAST: Cell<(u128, Uuid)> = const { Cell::new((0, Uuid::nil())) };
}

/// The next id for a call that began at `time`.
pub(super) fn next(time: SystemTime) -> Uuid {
    let millisecond = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    let (last_millisecond, last) = LAST.get();
    let id = match counted_up(last).filter(|_| millisecond == last_millisecond) {
        Some(id) => id,
        None => Uuid::now_v7(),
    };
    LAST.set((millisecond, id));
    id
}

/// The id behind `last`, unless its counter is used up.
fn counted_up(last: Uuid) -> Option<Uuid> {
    let last = last.as_u128();
    (last & COUNTED != COUNTED).then(|| Uuid::from_u128(last.wrapping_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ids_are_of_version_7_and_ordered_and_no_two_are_equal() {
        let now = SystemTime::now();
        let mut ids: Vec<_> = (0..1_000)
            .map(|call| next(now + Duration::from_micros(call)))
            .collect();
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
        assert!(
            ids.iter()
                .all(|id| id.get_variant() == uuid::Variant::RFC4122)
        );
        assert!(ids.is_sorted());
        ids.dedup();
        assert_eq!(ids.len(), 1_000);
    }

    #[test]
    fn a_counter_that_is_used_up_is_drawn_anew() {
        assert_eq!(counted_up(Uuid::max()), None);
        let random = Uuid::now_v7();
        assert_ne!(counted_up(random), Some(random));
    }
}

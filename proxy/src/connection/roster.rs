//! The HTTP connections that one worker serves for one listener, looked through at intervals
//! for those that are out of time.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::Connection;

/// Who is connected. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roster(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    places: Vec<Option<Weak<Connection>>>,
    free: Vec<usize>,
}

/// A connection's name on the roster; struck off when dropped.
#[derive(Debug)]
pub(super) struct Listed {
    roster: Roster,
    place: usize,
}

impl Roster {
    /// Puts a connection on the roster.
    pub(super) fn enter(&self, connection: &Arc<Connection>) -> Listed {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = Some(Arc::downgrade(connection));
        let place = match entries.free.pop() {
            Some(place) => {
                if let Some(free) = entries.places.get_mut(place) {
                    *free = name;
                }
                place
            }
            None => {
                entries.places.push(name);
                entries.places.len() - 1
            }
        };
        Listed {
            roster: self.clone(),
            place,
        }
    }

    /// Looks through the roster at every interval, for as long as there is a listener or a
    /// connection that has it.
    pub(crate) fn sweep(&self, interval: Duration) -> impl Future<Output = ()> + use<> {
        let entries = Arc::downgrade(&self.0);
        async move {
            loop {
                tokio::time::sleep(interval).await;
                match entries.upgrade() {
                    Some(entries) => Self(entries).look(Instant::now()),
                    None => return,
                }
            }
        }
    }

    fn look(&self, now: Instant) {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in entries.places.iter().flatten() {
            // Dropped after the lock: the last owner's drop strikes the name off.
            if let Some(connection) = connection.upgrade() {
                connection.look(now);
            }
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut entries = self.roster.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = entries.places.get_mut(self.place) {
            *place = None;
            entries.free.push(self.place);
        }
    }
}

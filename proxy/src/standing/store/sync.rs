//! Reads everything that is kept in the store, and writes what is known here and is not there.

use std::collections::HashMap;

use super::entry::{Entry, Numbers};
use super::link::{Asker, StoreError};
use super::{Store, now_ms};

/// How many entries are read, written or forgotten at once.
pub(super) const BATCH: usize = 200;
/// How many entries are read at most: more than sidecars can know.
const MOST: usize = 5_000_000;
const MERGE: &str = include_str!("merge.lua");
const PURGE: &str = include_str!("purge.lua");

type Page = (u64, Vec<(Vec<u8>, Vec<u8>)>);

impl Store {
    /// Adopts what is in the store, and writes there what is known here alone.
    pub(super) async fn synchronise(&self, asker: &mut Asker) -> Result<(), StoreError> {
        let there = self.read_all(asker).await?;
        let principals = self.standing.principals();
        principals.expire(now_ms());
        let known = principals.changes().into_iter().map(Entry::of);
        let missing = known.filter(|entry| {
            let numbers = there.get(entry.field.as_str());
            numbers.is_none_or(|there| !entry.numbers.are_in(*there))
        });
        let missing: Vec<Entry> = missing.collect();
        for entries in missing.chunks(BATCH) {
            self.write(asker, entries).await?;
        }
        Ok(())
    }

    /// Merges entries into those in the store, which publishes what is news there.
    pub(super) async fn write(
        &self,
        asker: &mut Asker,
        entries: &[Entry],
    ) -> Result<(), StoreError> {
        let names = &self.names;
        let mut merge = redis::cmd("EVAL");
        merge
            .arg(MERGE)
            .arg(1)
            .arg(&names.standing)
            .arg(&names.changes);
        for entry in entries {
            let Numbers { rank, ends } = entry.numbers;
            merge
                .arg(&entry.field)
                .arg(rank)
                .arg(ends)
                .arg(entry.json());
        }
        let news: u64 = asker.ask(&merge).await?;
        self.health.metrics.sent(news);
        Ok(())
    }

    /// Adopts what is in the store, and tells by which numbers it is merged there.
    async fn read_all(&self, asker: &mut Asker) -> Result<HashMap<String, Numbers>, StoreError> {
        let mut there = HashMap::new();
        let mut cursor = 0;
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(&self.names.standing).arg(cursor);
            scan.arg("COUNT").arg(BATCH);
            let (next, page): Page = asker.ask(&scan).await?;
            self.take(asker, &page, &mut there).await?;
            if next == 0 {
                return Ok(there);
            }
            if there.len() > MOST {
                let why = format!("`{}` has more than {MOST} entries", self.names.standing);
                return Err(StoreError::Refused(why));
            }
            cursor = next;
        }
    }

    async fn take(
        &self,
        asker: &mut Asker,
        page: &[(Vec<u8>, Vec<u8>)],
        there: &mut HashMap<String, Numbers>,
    ) -> Result<(), StoreError> {
        let mut over = redis::cmd("EVAL");
        over.arg(PURGE).arg(1).arg(&self.names.standing);
        let mut any = false;
        for (field, value) in page {
            match Entry::kept(field, value, now_ms()) {
                Ok(entry) if entry.is_over(now_ms()) => {
                    any = true;
                    over.arg(field).arg(value);
                }
                Ok(entry) => {
                    self.adopt(&entry);
                    there.insert(entry.field, entry.numbers);
                }
                Err(error) => self.tell_unfit(&error, "entry"),
            }
        }
        if any {
            let _: u64 = asker.ask(&over).await?;
        }
        Ok(())
    }
}

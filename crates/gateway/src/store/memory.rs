//! Tables in memory, gone with the process: for tests, simulations and networks that live on one machine for an hour.

use std::collections::BTreeMap;

use super::{Change, Kept, Limits, Row, StoreError, Table, Tables};

/// Tables in memory: gone with the process.
#[derive(Default)]
pub struct MemoryTables(BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>);

/// A store in memory.
pub type MemoryMailStore = Kept<MemoryTables>;

impl MemoryMailStore {
    /// An empty store.
    #[must_use]
    pub fn in_memory(limits: Limits) -> Self {
        Self::empty(MemoryTables::default(), limits)
    }
}

impl Tables for MemoryTables {
    fn name(&self) -> String {
        "in memory".into()
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(&table).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], below: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let Some(rows) = self.0.get(&table).filter(|_| from < below) else {
            return Ok(Vec::new());
        };
        let rows = rows.range(from.to_vec()..below.to_vec()).take(limit);
        Ok(rows.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn write(&mut self, changes: Vec<Change>, _: bool) -> Result<(), StoreError> {
        for change in changes {
            match change {
                Change::Put(table, key, value) => {
                    self.0.entry(table).or_default().insert(key, value);
                }
                Change::Delete(table, key) => {
                    self.0.entry(table).or_default().remove(&key);
                }
            }
        }
        Ok(())
    }

    fn revive(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

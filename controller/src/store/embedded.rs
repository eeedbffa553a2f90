//! The embedded store: one redb file, for a machine without Kubernetes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use dynamicswap_crds::{ObjectKey, RemoteMemoryPolicy};
use dynamicswap_planner::Ledger;
use dynamicswap_types::{NodeName, SetId, SwapDeviceId, Term};
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::record::{DeviceEntry, NodeEntry, SetEntry};
use super::{Change, Kept, Store, StoreError};
use crate::limits::STORE_CACHE_BYTES;

/// Version of the file's content.
const FORMAT: u64 = 1;
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const NODES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("nodes");
const DEVICES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("devices");
const SETS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("sets");
const POLICIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("policies");

/// A store in one file.
#[derive(Debug)]
pub struct EmbeddedStore {
    database: Database,
}

/// Any of redb's errors as this module's.
fn failed(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Io(error.into())
}

impl EmbeddedStore {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with one sentence if the file cannot be used.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut builder = Database::builder();
        builder.set_cache_size(STORE_CACHE_BYTES);
        let database = builder
            .create(path)
            .map_err(|error| refused(path, &error))?;
        let store = Self { database };
        store.check_format(path)?;
        Ok(store)
    }

    /// A new file gets the format's number; another number is refused.
    fn check_format(&self, path: &Path) -> Result<(), StoreError> {
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut meta = write.open_table(META).map_err(failed)?;
            let found = meta.get("format").map_err(failed)?.map(|kept| kept.value());
            match found {
                Some(FORMAT) => return Ok(()),
                Some(other) => {
                    return Err(StoreError::Refused(format!(
                        "store {} has format {other} and this controller knows format {FORMAT}: \
                         use the controller that wrote it, or another --store",
                        path.display()
                    )));
                }
                None => {}
            }
            meta.insert("format", FORMAT).map_err(failed)?;
            write.open_table(NODES).map_err(failed)?;
            write.open_table(DEVICES).map_err(failed)?;
            write.open_table(SETS).map_err(failed)?;
            write.open_table(POLICIES).map_err(failed)?;
        }
        write.commit().map_err(failed)
    }
}

/// The sentence for a file that does not open.
fn refused(path: &Path, error: &DatabaseError) -> StoreError {
    let path = path.display();
    StoreError::Refused(match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => format!(
            "store {path} is in use by another controller: stop that one, or choose another \
             --store"
        ),
        DatabaseError::UpgradeRequired(version) => format!(
            "store {path} has file format {version}, which is too old for this controller: use \
             the controller that wrote it, or another --store"
        ),
        DatabaseError::Storage(StorageError::Io(io))
            if io.kind() == std::io::ErrorKind::InvalidData =>
        {
            format!("store {path} is no store of a controller: choose another --store")
        }
        DatabaseError::Storage(StorageError::Io(io)) => format!(
            "store {path} cannot be opened ({io}): choose a --store in a directory that exists \
             and can be written"
        ),
        other => format!("store {path} cannot be opened ({other}): choose another --store"),
    })
}

impl Store for EmbeddedStore {
    fn load(&mut self) -> Result<Kept, StoreError> {
        let read = self.database.begin_read().map_err(failed)?;
        let meta = read.open_table(META).map_err(failed)?;
        let number = |key: &str| -> Result<Option<u64>, StoreError> {
            Ok(meta.get(key).map_err(failed)?.map(|kept| kept.value()))
        };
        let mut ledger = Ledger::default();
        if let Some(next) = number("next_set")? {
            ledger.next_set = SetId::new(next);
        }
        for (key, entry) in entries::<NodeEntry>(&read.open_table(NODES).map_err(failed)?)? {
            let node: NodeName = parse_key(&key)?;
            ledger.nodes.insert(node, entry.into());
        }
        for (key, entry) in entries::<DeviceEntry>(&read.open_table(DEVICES).map_err(failed)?)? {
            let device: SwapDeviceId = parse_key(&key)?;
            ledger.devices.insert(device, entry.into());
        }
        let sets = read.open_table(SETS).map_err(failed)?;
        for kept in sets.iter().map_err(failed)? {
            let (key, value) = kept.map_err(failed)?;
            let entry: SetEntry = parse(&key.value().to_string(), value.value())?;
            ledger
                .sets
                .insert(SetId::new(key.value()), Arc::new(entry.into()));
        }
        let mut policies = BTreeMap::new();
        let table = read.open_table(POLICIES).map_err(failed)?;
        for (_, policy) in entries::<RemoteMemoryPolicy>(&table)? {
            let key = policy.key().map_err(|error| corrupt("policy", error))?;
            policies.insert(key, policy);
        }
        Ok(Kept {
            term: Term::new(number("term")?.unwrap_or(0)),
            ledger,
            policies,
            ignored: Vec::new(),
        })
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        // redb's default durability: on disk when commit returns.
        let write = self.database.begin_write().map_err(failed)?;
        for change in changes {
            apply(&write, change)?;
        }
        write.commit().map_err(failed)
    }
}

fn apply(write: &WriteTransaction, change: &Change) -> Result<(), StoreError> {
    match change {
        Change::Term(term) => put_number(write, "term", term.get()),
        Change::NextSet(set) => put_number(write, "next_set", set.get()),
        Change::Node(node, record) => {
            let entry = record.clone().map(NodeEntry::from);
            put(write, NODES, node.as_str(), entry.as_ref())
        }
        Change::Device(device, record) => {
            let entry = record.clone().map(DeviceEntry::from);
            put(write, DEVICES, &device.to_string(), entry.as_ref())
        }
        Change::Policy(key, policy) => put(write, POLICIES, &policy_key(key), policy.as_ref()),
        Change::Set(set, record) => {
            let entry = record.clone().map(Arc::unwrap_or_clone).map(SetEntry::from);
            let mut table = write.open_table(SETS).map_err(failed)?;
            match entry {
                Some(entry) => {
                    let json = to_json(&set.to_string(), &entry)?;
                    table.insert(set.get(), &*json).map_err(failed)?;
                }
                None => {
                    table.remove(set.get()).map_err(failed)?;
                }
            }
            Ok(())
        }
    }
}

fn policy_key(key: &ObjectKey) -> String {
    key.to_string()
}

fn put_number(write: &WriteTransaction, key: &str, number: u64) -> Result<(), StoreError> {
    let mut meta = write.open_table(META).map_err(failed)?;
    meta.insert(key, number).map_err(failed)?;
    Ok(())
}

fn put<T: Serialize>(
    write: &WriteTransaction,
    table: TableDefinition<'_, &str, &[u8]>,
    key: &str,
    entry: Option<&T>,
) -> Result<(), StoreError> {
    let mut table = write.open_table(table).map_err(failed)?;
    match entry {
        Some(entry) => {
            let json = to_json(key, entry)?;
            table.insert(key, &*json).map_err(failed)?;
        }
        None => {
            table.remove(key).map_err(failed)?;
        }
    }
    Ok(())
}

fn to_json<T: Serialize>(key: &str, entry: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(entry).map_err(|error| corrupt(key, error))
}

fn entries<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Vec<(String, T)>, StoreError> {
    let mut found = Vec::new();
    for kept in table.iter().map_err(failed)? {
        let (key, value) = kept.map_err(failed)?;
        let key = key.value().to_owned();
        let entry = parse(&key, value.value())?;
        found.push((key, entry));
    }
    Ok(found)
}

fn parse<T: DeserializeOwned>(key: &str, json: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(json).map_err(|error| corrupt(key, error))
}

fn parse_key<T: std::str::FromStr<Err: ToString>>(key: &str) -> Result<T, StoreError> {
    key.parse()
        .map_err(|error: T::Err| corrupt(key, error.to_string()))
}

fn corrupt(key: &str, reason: impl ToString) -> StoreError {
    StoreError::Corrupt {
        entry: key.to_owned(),
        reason: reason.to_string(),
    }
}

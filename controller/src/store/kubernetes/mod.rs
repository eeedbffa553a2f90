//! The store in Kubernetes: the server side is the truth, a leadership is the right to write.
//!
//! A commit touches several objects and is not one transaction. It need not be: no slot is given
//! away in the round that frees it, so that every mixture of old and new objects is a ledger that
//! the planner can go on from, and nothing is handed out before all of them are written. Objects of
//! a commit that failed half-way are written anew, and first, by the next one.
//!
//! Fencing: a new leader writes its term into every object before it plans. An older one's writes
//! carry the resource version that it knew, so the server refuses them; and it stops by its own
//! clock before that.

mod objects;
mod slab_map;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dynamicswap_crds::Kind;
use dynamicswap_planner::Ledger;
use dynamicswap_types::Term;
use futures::{StreamExt as _, stream};
use kube::api::{
    DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tracing::warn;

use self::objects::{Place, RECORD_LABEL};
pub use self::slab_map::spec_of as slab_map_spec;
use super::{Change, Kept, Store, StoreError};
use crate::kubernetes::{
    ApiError, FIELD_MANAGER, Leadership, config_maps, group_objects, policy_of, within,
};
use crate::limits::{RECORD_ATTEMPTS_MAX, RECORD_WRITES_MAX};
use crate::policies::Policies;

/// The store; see the module.
pub struct KubernetesStore {
    server: Server,
    kept: Option<Kept>,
    ledger: Ledger,
    known: BTreeMap<Place, Known>,
    /// Objects of which it is not known what they hold.
    doubtful: BTreeSet<Place>,
}

/// What writes go through.
struct Server {
    config_maps: Api<DynamicObject>,
    slab_maps: Api<DynamicObject>,
    namespace: String,
    leadership: Arc<Leadership>,
}

/// The highest term that any controller has written; what a candidate must be above.
///
/// # Errors
/// If the API server does not say.
pub async fn highest_term(client: &Client, namespace: &str) -> Result<Term, ApiError> {
    let api = config_maps(client, namespace);
    let state = within(
        "read the controller's state",
        api.get_opt(objects::STATE_NAME),
    )
    .await;
    Ok(state?.map_or(Term::ZERO, |state| objects::term_of(&value(state))))
}

impl KubernetesStore {
    /// Reads what is kept, and makes it this leader's: afterwards no older one can write.
    ///
    /// # Errors
    /// If the API server does not answer, or what it holds makes no sense.
    pub async fn open(
        client: &Client,
        namespace: &str,
        leadership: Arc<Leadership>,
    ) -> Result<Self, StoreError> {
        let server = Server {
            config_maps: config_maps(client, namespace),
            slab_maps: group_objects(client, Kind::SlabMap),
            namespace: namespace.to_owned(),
            leadership,
        };
        let (mut ledger, mut known) = (Ledger::default(), BTreeMap::new());
        let records = ListParams::default().labels(RECORD_LABEL);
        let list = within("list the records", server.config_maps.list(&records)).await?;
        for object in list.items.into_iter().map(value) {
            let place = objects::absorb_config_map(&mut ledger, &object).map_err(with_cure)?;
            if let Some(place) = place {
                known.insert(place, Known::of(&object));
            }
        }
        let mut ignored = Vec::new();
        let everything = ListParams::default();
        let list = server.slab_maps.list(&everything);
        for object in within("list the SlabMaps", list).await?.items {
            let object = value(object);
            if !objects::is_record(&object) {
                ignored.push(Known::of(&object).name);
                continue;
            }
            let place = objects::absorb_slab_map(&mut ledger, &object).map_err(with_cure)?;
            known.insert(place, Known::of(&object));
        }
        let policies = read_policies(client).await?;
        let mut store = Self {
            kept: None,
            ledger,
            known,
            doubtful: BTreeSet::new(),
            server,
        };
        let mut all: BTreeSet<Place> = store.known.keys().cloned().collect();
        all.insert(Place::State);
        let ledger = store.ledger.clone();
        store.write_all(&ledger, all).await?;
        let before = store.server.leadership.term().get().saturating_sub(1);
        store.kept = Some(Kept {
            // The owner begins the next one, which is the leadership's.
            term: Term::new(before),
            ledger,
            policies,
            ignored,
        });
        Ok(store)
    }

    /// Writes places as `ledger` has them, some at once. What fails stays doubtful.
    async fn write_all(
        &mut self,
        ledger: &Ledger,
        places: BTreeSet<Place>,
    ) -> Result<(), StoreError> {
        self.doubtful.extend(places.iter().cloned());
        let writes = places.into_iter().map(|place| {
            let known = self.known.get(&place).cloned();
            let server = &self.server;
            async move {
                let written = server.write(ledger, &place, known).await?;
                Ok::<_, StoreError>((place, written))
            }
        });
        let mut writes = stream::iter(writes).buffer_unordered(RECORD_WRITES_MAX);
        let (mut done, mut failure) = (Vec::new(), None);
        while let Some(result) = writes.next().await {
            match result {
                Ok(written) => done.push(written),
                Err(error) => failure = Some(error),
            }
        }
        drop(writes);
        for (place, written) in done {
            self.doubtful.remove(&place);
            match written {
                Some(known) => self.known.insert(place, known),
                None => self.known.remove(&place),
            };
        }
        failure.map_or(Ok(()), Err)
    }

    async fn commit_all(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        if changes
            .iter()
            .any(|change| matches!(change, Change::Policy(..)))
        {
            return Err(StoreError::Refused(
                "policies are Kubernetes objects here: use kubectl apply or kubectl delete"
                    .to_owned(),
            ));
        }
        let mut next = self.ledger.clone();
        objects::apply(&mut next, changes);
        let mut places: BTreeSet<Place> = changes
            .iter()
            .filter_map(|change| Place::of(change, &self.ledger))
            .collect();
        let doubtful = std::mem::take(&mut self.doubtful);
        places.retain(|place| !doubtful.contains(place));
        self.write_all(&next, doubtful).await?;
        // Ids of sets are never used again: the next one is on record before any set has it.
        if places.remove(&Place::State) {
            self.write_all(&next, BTreeSet::from([Place::State]))
                .await?;
        }
        self.write_all(&next, places).await?;
        self.ledger = next;
        Ok(())
    }
}

impl Store for KubernetesStore {
    fn load(&mut self) -> Result<Kept, StoreError> {
        let kept = self.kept.take();
        kept.ok_or_else(|| StoreError::Refused("the store was loaded twice".to_owned()))
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        // Called by the owner, which has nothing to do before it is written.
        tokio::task::block_in_place(|| Handle::current().block_on(self.commit_all(changes)))
    }

    fn has_donor_objects(&self) -> bool {
        true
    }
}

/// What to do about a record that makes no sense.
fn with_cure(error: StoreError) -> StoreError {
    match error {
        StoreError::Corrupt { .. } => StoreError::Refused(format!(
            "{error}. Nothing is planned until it does: agents go on with the documents that they have, and \
             no page is lost. Put back what stood there, from a backup or from 'kubectl dynamicswap dump', \
             and this controller goes on by itself"
        )),
        other => other,
    }
}

/// An object as the server last had it.
#[derive(Debug, Clone)]
struct Known {
    name: String,
    version: String,
}

impl Known {
    fn of(object: &Value) -> Self {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        Self {
            name: text("name").to_owned(),
            version: text("resourceVersion").to_owned(),
        }
    }
}

impl Server {
    /// Has the object at `place` hold what `ledger` says; what the server has then, or none if
    /// there is no object any more.
    async fn write(
        &self,
        ledger: &Ledger,
        place: &Place,
        mut known: Option<Known>,
    ) -> Result<Option<Known>, StoreError> {
        let term = self.leadership.term();
        let wanted = objects::render(ledger, place, term, &self.namespace);
        let wanted = wanted.map_err(|error| corrupt(place, &error.to_string()))?;
        let name = match (&wanted, &known) {
            (None, None) => return Ok(None),
            (Some(wanted), _) => Known::of(wanted).name,
            (None, Some(known)) => known.name.clone(),
        };
        let api = self.api(place);
        for _ in 0..RECORD_ATTEMPTS_MAX {
            if !self.leadership.holds() {
                return Err(StoreError::Deposed);
            }
            let attempt = match (&wanted, &known) {
                (None, None) => return Ok(None),
                (None, Some(known)) => remove(api, known).await.map(|()| None),
                (Some(wanted), None) => make(api, &name, wanted).await.map(Some),
                (Some(wanted), Some(known)) => apply(api, wanted, known).await.map(Some),
            };
            match attempt {
                // Made with the least that it must have: the whole follows.
                Ok(Some(made)) if known.is_none() => known = Some(made),
                Ok(written) => return Ok(written),
                Err(error) if error.is_conflict() || error.is_not_found() => {
                    known = self.look_again(api, &name).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(corrupt(
            place,
            "somebody else writes it as well, and the controller alone may",
        ))
    }

    /// The object as it is now, if no newer leader wrote it.
    async fn look_again(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
    ) -> Result<Option<Known>, StoreError> {
        let found = within(format!("read {name}"), api.get_opt(name)).await?;
        let Some(object) = found.map(value) else {
            return Ok(None);
        };
        if objects::term_of(&object) > self.leadership.term() {
            return Err(StoreError::Deposed);
        }
        warn!(name, "somebody else wrote this record: it is written again");
        Ok(Some(Known::of(&object)))
    }

    const fn api(&self, place: &Place) -> &Api<DynamicObject> {
        match place {
            Place::State | Place::Node(_) => &self.config_maps,
            Place::Device(_) => &self.slab_maps,
        }
    }
}

/// Makes an object with the least that its kind asks for. By `create` and not by `apply`, because
/// only that fails where there is one already.
async fn make(api: &Api<DynamicObject>, name: &str, wanted: &Value) -> Result<Known, ApiError> {
    let mut least = wanted.clone();
    if let Some(object) = least.as_object_mut() {
        object.remove("data");
    }
    if let Some(sets) = least.pointer_mut("/spec/sets") {
        *sets = json!([]);
    }
    let what = format!("make {name}");
    let least: DynamicObject =
        serde_json::from_value(least).map_err(|source| ApiError::Failed {
            what: what.clone(),
            source: Box::new(kube::Error::SerdeError(source)),
        })?;
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let made = within(what, api.create(&params, &least)).await?;
    Ok(Known::of(&value(made)))
}

/// Server-side apply, refused if the object is another one than `known`.
async fn apply(api: &Api<DynamicObject>, wanted: &Value, known: &Known) -> Result<Known, ApiError> {
    let mut wanted = wanted.clone();
    wanted["metadata"]["resourceVersion"] = json!(known.version);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(&wanted);
    let what = format!("write {}", known.name);
    let written = within(what, api.patch(&known.name, &params, &patch)).await?;
    Ok(Known::of(&value(written)))
}

async fn remove(api: &Api<DynamicObject>, known: &Known) -> Result<(), ApiError> {
    let condition = Preconditions {
        resource_version: Some(known.version.clone()),
        uid: None,
    };
    let params = DeleteParams::default().preconditions(condition);
    let what = format!("delete {}", known.name);
    within(what, api.delete(&known.name, &params))
        .await
        .map(drop)
}

/// Every policy that is understood. The watch tells of the others.
async fn read_policies(client: &Client) -> Result<Policies, StoreError> {
    let api = group_objects(client, Kind::RemoteMemoryPolicy);
    let list = within("list the policies", api.list(&ListParams::default())).await?;
    let policies = list
        .items
        .iter()
        .filter_map(|object| policy_of(object).ok());
    Ok(policies.collect())
}

/// An object as JSON. One that came from JSON always has a JSON form.
fn value(object: DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

fn corrupt(place: &Place, reason: &str) -> StoreError {
    StoreError::Corrupt {
        entry: match place {
            Place::State => "of the controller".to_owned(),
            Place::Device(device) => format!("of device {device}"),
            Place::Node(node) => format!("of node {node}"),
        },
        reason: reason.to_owned(),
    }
}

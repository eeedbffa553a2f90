//! `up`: a control plane and nodes, left running; or nothing, if one of them does not come up.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use dynamicswap_cli::failure::{Interrupted, Refusal};
use dynamicswap_cli::interrupt::Interrupt;
use serde_json::Value;

use crate::client::Place;
use crate::control_plane::{ControlPlane, Options};
use crate::down;
use crate::family::{Family, Lifetime};
use crate::image::{self, Image};
use crate::node::{self, Cluster, Node};
use crate::programs::{CONTROL_PLANE, PERSON, Programs};
use crate::record::{Paths, Record};
use crate::store::Store;

/// All nodes are Ready within it: without hardware help, one alone boots for a minute or two.
const READY_TIME_MAX: Duration = Duration::from_secs(900);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What to bring up.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Names and places.
    pub paths: Paths,
    /// The nodes, numbered from 1 without a gap.
    pub nodes: Vec<Node>,
    /// A folder with image archives for every node.
    pub images: Option<PathBuf>,
}

/// Brings it up and waits until every node is Ready; then it runs on without this process.
///
/// # Errors
/// A refusal if it is up already. After any other error nothing is left of it.
pub fn up(plan: &Plan, interrupt: &Interrupt) -> Result<Record> {
    let Paths { name, folder, .. } = &plan.paths;
    if plan.paths.exist() {
        return Err(Refusal::error(format!(
            "a cluster '{name}' is there already: 'cargo xtask cluster down{}' removes it",
            plan.paths.option()
        )));
    }
    if let Some(images) = &plan.images {
        image::archives(images)?;
    }
    // What takes minutes the first time comes before anything that a failure would have to undo.
    let programs = Programs::prepare(&[&CONTROL_PLANE[..], &PERSON[..]].concat())?;
    let image = if plan.nodes.is_empty() {
        None
    } else {
        Some(Image::prepare()?)
    };
    interrupt.check()?;
    if let Some(root) = folder.parent() {
        fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
    }
    let guard = Guard {
        paths: plan.paths.clone(),
        armed: true,
    };
    let record = start(plan, &programs, image.as_ref(), interrupt)?;
    guard.disarm();
    Ok(record)
}

fn start(
    plan: &Plan,
    programs: &Programs,
    image: Option<&Image>,
    interrupt: &Interrupt,
) -> Result<Record> {
    let paths = &plan.paths;
    paths.namespace.create()?;
    let plane = ControlPlane::start(&Options {
        place: Place::Namespace(paths.namespace.clone()),
        folder: Some(paths.folder.clone()),
        lifetime: Lifetime::Keepable,
        interrupt: interrupt.clone(),
    })?;
    eprintln!("the control plane is ready: {}", plane.endpoint());
    let mut record = Record {
        programs: programs.folder(),
        processes: plane.processes(),
    };
    record.save(paths)?;
    let mut family = Family::new(&plane.client().file("logs"), Lifetime::Keepable)?;
    if let Some(image) = image {
        let booted = start_nodes(plan, &plane, image, &mut family, interrupt).and_then(|()| {
            record.processes.extend(family.records());
            record.save(paths)?;
            wait_ready(plan.nodes.len(), &plane, &mut family, interrupt)
        });
        booted.map_err(|error| with_logs(error, &plane))?;
    }
    // The same processes as in the record.
    let _nodes = family.keep();
    let _control_plane = plane.keep();
    Ok(record)
}

fn start_nodes(
    plan: &Plan,
    plane: &ControlPlane,
    image: &Image,
    family: &mut Family,
    interrupt: &Interrupt,
) -> Result<()> {
    let store = Store {
        folder: &plane.client().file("store"),
        image,
        interrupt,
    };
    let cluster = Cluster {
        namespace: plan.paths.namespace.clone(),
        image: image.clone(),
        count: u8::try_from(plan.nodes.len()).context("too many nodes")?,
        store: store.fill(plan.images.as_deref())?,
    };
    for node in &plan.nodes {
        let command = node.prepare(plane, &cluster)?;
        family.start(&node.name(), command)?;
    }
    Ok(())
}

/// Waits until every node is Ready, and says so of each.
fn wait_ready(
    count: usize,
    plane: &ControlPlane,
    family: &mut Family,
    interrupt: &Interrupt,
) -> Result<()> {
    let begun = Instant::now();
    eprintln!("{count} nodes boot, which takes minutes");
    let mut told: Vec<String> = Vec::new();
    loop {
        if let Some(loss) = family.loss() {
            bail!(loss);
        }
        // On a machine that is busy booting a look may fail; the next one may not.
        let said = plane.client().kubectl(&["get", "nodes", "-o", "json"]);
        let ready = said.and_then(|said| ready_nodes(&said)).unwrap_or_default();
        for name in ready {
            if !told.contains(&name) {
                eprintln!("{name} is Ready after {} s", begun.elapsed().as_secs());
                told.push(name);
            }
        }
        if told.len() >= count {
            return Ok(());
        }
        if begun.elapsed() > READY_TIME_MAX {
            let all = (1..=count).filter_map(|number| u8::try_from(number).ok());
            let missing: Vec<String> = all
                .map(node::name)
                .filter(|name| !told.contains(name))
                .collect();
            bail!("not Ready after {READY_TIME_MAX:?}: {}", missing.join(", "));
        }
        interrupt.wait(LOOK_EVERY)?;
    }
}

/// Names of the nodes that are Ready, from what kubectl says in JSON.
fn ready_nodes(said: &str) -> Result<Vec<String>> {
    let list: Value = serde_json::from_str(said).context("kubectl's answer is no JSON")?;
    let is_ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|it| it["type"] == "Ready" && it["status"] == "True")
    };
    let nodes = list["items"].as_array().into_iter().flatten();
    let names = nodes
        .filter(is_ready)
        .filter_map(|node| node["metadata"]["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

/// Saves the logs from the folder that is about to be removed, and adds to the error where they
/// are. What was interrupted needs none.
fn with_logs(error: anyhow::Error, plane: &ControlPlane) -> anyhow::Error {
    if error.is::<Interrupted>() {
        return error;
    }
    let made = tempfile::Builder::new()
        .prefix("dynamicswap-cluster-logs-")
        .tempdir();
    let Ok(kept) = made.map(tempfile::TempDir::keep) else {
        return error;
    };
    let logs = fs::read_dir(plane.client().file("logs"));
    for entry in logs.into_iter().flatten().flatten() {
        // What cannot be copied is lost, and so is the reason: there is a better error to tell.
        let _copied = fs::copy(entry.path(), kept.join(entry.file_name()));
    }
    error.context(format!("logs and consoles are in {}", kept.display()))
}

/// Takes down what a failed start leaves.
struct Guard {
    paths: Paths,
    armed: bool,
}

impl Guard {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.armed {
            for left in down::take_down(&self.paths, &[]) {
                eprintln!("left behind: {left}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_that_are_ready_are_named() {
        let node = |name: &str, status: &str| {
            serde_json::json!({"metadata": {"name": name}, "status": {"conditions": [
                {"type": "MemoryPressure", "status": "True"},
                {"type": "Ready", "status": status}]}})
        };
        let new = serde_json::json!({"metadata": {"name": "node-3"}});
        let items = [node("node-1", "True"), node("node-2", "Unknown"), new];
        let list = serde_json::json!({"items": items}).to_string();
        assert_eq!(ready_nodes(&list).expect("a list"), ["node-1"]);
    }
}

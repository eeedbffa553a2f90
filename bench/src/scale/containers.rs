//! Many containers, each a process that sleeps in cgroups of its own, and the descriptors by which an
//! agent finds them. On a host whose memory controller is cgroup v1's, also a tree with the files of v2.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use dynamicswap_cli::run_container::Descriptor;
use dynamicswap_types::Bytes;
use dynamicswap_workload::container::{Container, Layout};

/// Cgroup above all of them.
const ABOVE: &str = "dynamicswap-bench-agent";
/// What each may have; a process that sleeps has 100 KiB.
const LIMIT: Bytes = Bytes::from_mib(64);
/// memory.stat as Linux 6.18 prints it, in its order: an agent has to find its lines among all others.
const STAT_NAMES: &str = "anon file kernel kernel_stack pagetables sec_pagetables percpu sock vmalloc \
    shmem zswap zswapped file_mapped file_dirty file_writeback swapcached anon_thp file_thp shmem_thp \
    inactive_anon active_anon inactive_file active_file unevictable slab_reclaimable \
    slab_unreclaimable slab workingset_refault_anon workingset_refault_file workingset_activate_anon \
    workingset_activate_file workingset_restore_anon workingset_restore_file workingset_nodereclaim \
    pgdemote_kswapd pgdemote_direct pgdemote_khugepaged pgdemote_proactive pswpin pswpout pgscan \
    pgsteal pgscan_kswapd pgscan_direct pgscan_khugepaged pgscan_proactive pgsteal_kswapd \
    pgsteal_direct pgsteal_khugepaged pgsteal_proactive pgfault pgmajfault pgrefill pgactivate \
    pgdeactivate pglazyfree pglazyfreed swpin_zero swpout_zero zswpin zswpout zswpwb \
    thp_fault_alloc thp_collapse_alloc thp_swpout thp_swpout_fallback";

/// The containers; processes and cgroups go with them.
#[derive(Debug)]
pub struct Containers {
    layout: Layout,
    made: Vec<(Container, Child)>,
}

impl Containers {
    /// Makes so many.
    pub fn make(count: usize) -> Result<Self> {
        let layout = Layout::probe()?;
        let mut containers = Self {
            layout,
            made: Vec::with_capacity(count),
        };
        for number in 0..count {
            let name = format!("{ABOVE}/c{number:03}");
            let mut container = Container::create(&containers.layout, &name, LIMIT)?;
            // Nothing here swaps, and reading on behalf of it would be half of what is measured.
            container.keep_counts_no_more();
            let mut command = Command::new("sleep");
            command.arg("infinity").stdin(Stdio::null());
            container.enter(&mut command)?;
            let child = command.spawn().context("cannot start 'sleep'")?;
            containers.made.push((container, child));
        }
        Ok(containers)
    }

    /// Whether this host has the files of cgroup v2 for them.
    pub fn are_unified(&self) -> bool {
        self.layout.is_unified()
    }

    /// Describes them to an agent, in `directory`.
    pub fn describe(&self, directory: &Path) -> Result<()> {
        let places = self.made.iter().map(|(container, _)| {
            let memory = container.memory_cgroup().to_owned();
            (memory, container.unified_cgroup().to_owned())
        });
        describe(directory, places)
    }

    /// Makes a tree below `root` with the files of cgroup v2, plain ones but for the pressure, which are
    /// the real ones of these containers, and describes it to an agent, in `directory`. What the kernel
    /// takes to count memory is not in it, what the agent takes to read is.
    pub fn describe_as_unified(&self, root: &Path, directory: &Path) -> Result<()> {
        let write = |path: PathBuf, text: &str| {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
        write(root.join("cgroup.controllers"), "cpu memory\n")?;
        let stat: String = STAT_NAMES
            .split_whitespace()
            .map(|name| format!("{name} 0\n"))
            .collect();
        let mut places = Vec::new();
        for (number, (container, _)) in self.made.iter().enumerate() {
            let cgroup = root.join(format!("c{number:03}"));
            fs::create_dir(&cgroup).with_context(|| format!("cannot make {}", cgroup.display()))?;
            for (file, text) in [
                ("memory.current", "131072\n"),
                ("memory.high", "max\n"),
                ("memory.max", "67108864\n"),
                ("memory.min", "0\n"),
                ("memory.low", "0\n"),
                ("memory.swap.current", "0\n"),
                ("memory.swap.max", "0\n"),
                ("memory.stat", &stat),
            ] {
                write(cgroup.join(file), text)?;
            }
            let pressure = container.unified_cgroup().join("memory.pressure");
            symlink(&pressure, cgroup.join("memory.pressure"))
                .with_context(|| format!("cannot link to {}", pressure.display()))?;
            places.push((cgroup.clone(), cgroup));
        }
        describe(directory, places)
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        // The first has made the directory above, and removes it: it must be the last.
        while let Some((container, mut child)) = self.made.pop() {
            // Kills what is inside.
            drop(container);
            let _reaped = child.wait();
        }
    }
}

/// One descriptor for each pair of a memory cgroup and a cgroup with its pressure.
fn describe(directory: &Path, places: impl IntoIterator<Item = (PathBuf, PathBuf)>) -> Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    for (number, (memory_cgroup, unified_cgroup)) in places.into_iter().enumerate() {
        let name = format!("c{number:03}");
        let path = directory.join(format!("{name}.json"));
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let descriptor = Descriptor {
            namespace: "default".to_owned(),
            name,
            labels: [label("app", "bench"), label("tier", "idle")].into(),
            memory_cgroup,
            unified_cgroup,
        };
        let json = serde_json::to_vec(&descriptor).context("a descriptor as JSON")?;
        fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

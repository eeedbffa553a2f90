//! Test builder: a directory that looks like /sys/fs/cgroup, in each layout.

use std::fs;
use std::path::{Path, PathBuf};

use dynamicswap_types::Bytes;
use tempfile::TempDir;

#[derive(Debug, Clone, Copy)]
enum Shape {
    Unified,
    Hybrid,
    MemoryOnly,
}

/// A pretended host.
#[derive(Debug)]
pub(crate) struct Host {
    directory: TempDir,
    shape: Shape,
}

/// What the files of a container say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Files {
    /// Memory in RAM.
    pub(crate) used: Bytes,
    /// Memory swapped out.
    pub(crate) swapped: Bytes,
    /// memory.high; v2 only.
    pub(crate) high: Option<Bytes>,
    /// The hard limit.
    pub(crate) max: Option<Bytes>,
    /// memory.swap.max as the kernel prints it; v2 only.
    pub(crate) swap_max: &'static str,
    /// avg10 of `some` as the kernel prints it.
    pub(crate) some: &'static str,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            used: Bytes::from_mib(64),
            swapped: Bytes::ZERO,
            high: None,
            max: None,
            // What kubelet gives a container.
            swap_max: "0",
            some: "0.00",
        }
    }
}

impl Host {
    pub(crate) fn unified() -> Self {
        let host = Self::of(Shape::Unified);
        host.write("cgroup.controllers", "cpuset cpu io memory pids\n");
        host
    }

    pub(crate) fn hybrid() -> Self {
        let host = Self::of(Shape::Hybrid);
        host.write("memory/memory.usage_in_bytes", "1\n");
        host.write("unified/cgroup.controllers", "\n");
        host.write("unified/memory.pressure", &pressure("0.00"));
        host
    }

    pub(crate) fn memory_only() -> Self {
        let host = Self::of(Shape::MemoryOnly);
        host.write("memory/memory.usage_in_bytes", "1\n");
        host
    }

    fn of(shape: Shape) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self { directory, shape }
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    /// What stands in a file below the root.
    pub(crate) fn read(&self, file: &str) -> String {
        let text = fs::read_to_string(self.root().join(file)).expect("it is there");
        text.trim().to_owned()
    }

    /// Writes a file below the root, with the directories above it.
    pub(crate) fn write(&self, file: &str, content: &str) {
        let path = self.root().join(file);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
        fs::write(path, content).expect("written");
    }

    /// Makes or changes a container; its directories for memory and for pressure.
    pub(crate) fn container(&self, name: &str, files: Files) -> (PathBuf, PathBuf) {
        let text = |bytes: Bytes| format!("{}\n", bytes.get());
        if matches!(self.shape, Shape::Unified) {
            let limit = |limit: Option<Bytes>| limit.map_or_else(|| "max\n".to_owned(), text);
            self.write(&format!("{name}/memory.current"), &text(files.used));
            self.write(&format!("{name}/memory.swap.current"), &text(files.swapped));
            self.write(&format!("{name}/memory.high"), &limit(files.high));
            self.write(&format!("{name}/memory.max"), &limit(files.max));
            self.write(&format!("{name}/memory.pressure"), &pressure(files.some));
            self.write(
                &format!("{name}/memory.swap.max"),
                &format!("{}\n", files.swap_max),
            );
            let cgroup = self.root().join(name);
            return (cgroup.clone(), cgroup);
        }
        let limit = files.max.unwrap_or(Bytes::new(9_223_372_036_854_771_712));
        let both = files.used.saturating_add(files.swapped);
        let file = |file: &str| format!("memory/{name}/{file}");
        self.write(&file("memory.usage_in_bytes"), &text(files.used));
        self.write(&file("memory.limit_in_bytes"), &text(limit));
        self.write(&file("memory.memsw.usage_in_bytes"), &text(both));
        if matches!(self.shape, Shape::Hybrid) {
            let path = format!("unified/{name}/memory.pressure");
            self.write(&path, &pressure(files.some));
        }
        let below = |root: &str| self.root().join(root).join(name);
        (below("memory"), below("unified"))
    }
}

fn pressure(some: &str) -> String {
    format!(
        "some avg10={some} avg60=1.50 avg300=0.25 total=123456\n\
         full avg10=0.00 avg60=0.00 avg300=0.00 total=23456\n"
    )
}

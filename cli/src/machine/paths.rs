//! Places of a machine that lends or borrows without Kubernetes.

/// State that ends with the machine's life: sockets, memory files. systemd makes it.
pub const RUN: &str = "/run/dynamicswap-machine";
/// State that outlives a reboot: the controller's store, kept documents, the spill file.
pub const STATE: &str = "/var/lib/dynamicswap-machine";
/// Where an administrator's units go.
pub const UNITS: &str = "/etc/systemd/system";

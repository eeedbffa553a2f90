//! The options of `drain`, their defaults and their words.

use clap::{Args, ValueEnum};
use dynamicswap_crds::PolicyDuration;

use crate::args::ConnectArgs;

/// Options of `drain`.
#[derive(Debug, Clone, Args)]
pub struct DrainArgs {
    /// Which controller.
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// What is drained.
    #[arg(value_enum, value_name = "KIND")]
    pub kind: DrainKind,
    /// Name of the node, as 'status' shows it.
    #[arg(value_name = "NAME")]
    pub object: String,
    /// Time after which a copy leaves as soon as any other whole one, or the disk, has its pages.
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub within: PolicyDuration,
    /// Longest time to follow it; exit code 1 when it is over. The drain goes on.
    #[arg(long, value_name = "TIME", default_value = "20m")]
    pub timeout: PolicyDuration,
    /// Only begin it: 'status' says how far it is.
    ///
    /// With 'server' on Kubernetes the object is changed and nothing else is asked, not even the
    /// guard's question.
    #[arg(long, conflicts_with = "timeout")]
    pub no_wait: bool,
    /// Begin even where slabs with their only copy there have nowhere to go yet.
    #[arg(long)]
    pub allow_stuck: bool,
}

/// What can be drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DrainKind {
    /// A donor's memory server.
    #[value(alias = "memoryserver", alias = "msrv")]
    Server,
    /// What a node lends, if it lends anything.
    Node,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser as _;

    #[test]
    fn drain_names_a_server_and_has_a_deadline() {
        let drain = |words: &[&str]| {
            let words = ["dynamicswap", "drain"].iter().chain(words);
            Cli::try_parse_from(words).map(|cli| match cli.command {
                Command::Drain(drain) => (drain.kind, drain.object, drain.within),
                _ => panic!("not drain"),
            })
        };
        let usual = drain(&["server", "d1"]).expect("valid");
        let (kind, name) = (DrainKind::Server, "d1".to_owned());
        assert_eq!(usual, (kind, name, PolicyDuration::from_secs(600)));
        assert_eq!(drain(&["node", "d1"]).expect("valid").0, DrainKind::Node);
        let soon = drain(&["server", "d1", "--within", "30s"]).expect("valid");
        assert_eq!(soon.2, PolicyDuration::from_secs(30));
        assert!(drain(&["node", "d1", "--no-wait", "--timeout", "1s"]).is_err());
        assert!(drain(&["d1"]).is_err() && drain(&["pod", "d1"]).is_err());
    }
}

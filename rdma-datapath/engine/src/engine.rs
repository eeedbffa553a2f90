//! The engine. Owns the in-flight table and the rules; see the module list in lib.rs.

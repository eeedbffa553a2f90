//! Persistent tables in the memory file: layout and typed access.

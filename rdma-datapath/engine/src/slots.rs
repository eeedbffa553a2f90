//! The memory server's slot table: ownership, epochs, zeroing.

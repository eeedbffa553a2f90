//! Random ids: drawn at start-up only.

use std::fs::File;
use std::io::{self, Read};

/// 16 random bytes, for an id.
///
/// # Errors
/// The host's, with the file that it refused.
pub fn id_bytes() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| io::Error::new(error.kind(), format!("read /dev/urandom: {error}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ids_differ() {
        assert_ne!(id_bytes().expect("readable"), id_bytes().expect("readable"));
    }
}

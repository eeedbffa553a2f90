//! Random ids and keys: drawn at start-up and with grants, never on the I/O path.

use std::fs::File;
use std::io::{self, Read};

/// Random bytes, for an id or a key.
///
/// # Errors
/// The host's, with the file that it refused.
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
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
        let [one, two] = [(); 2].map(|()| bytes::<16>().expect("readable"));
        assert_ne!(one, two);
    }
}

//! The part of redis' protocol that the workload speaks: requests as arrays of strings, and the
//! five kinds of answer of version 2.
//!
//! Owns one connection. A malformed answer is an error, never a guess.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use thiserror::Error;

/// Longest string that an answer may hold: redis' own limit.
const STRING_BYTES_MAX: usize = 512 << 20;
/// Longest array that an answer may hold.
const ARRAY_MAX: usize = 1 << 20;
/// A server that answers later is lost: far above any stall that the policy allows.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum RespError {
    /// The connection.
    #[error("the connection to redis-server failed")]
    Io(#[from] io::Error),
    /// Bytes that are no answer.
    #[error("redis-server sent {0:?}, which is no answer of its protocol")]
    Malformed(String),
    /// An error answer.
    #[error("redis-server refuses: {0}")]
    Refused(String),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A status.
    Status(String),
    /// A number.
    Integer(i64),
    /// A string, or none.
    Bulk(Option<Vec<u8>>),
    /// Several answers.
    Array(Vec<Value>),
}

/// A connection to a server.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<TcpStream>,
    request: Vec<u8>,
}

impl Connection {
    /// Connects to a server on this machine.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn open(port: u16) -> Result<Self, RespError> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self {
            reader: BufReader::with_capacity(64 << 10, stream),
            request: Vec::new(),
        })
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`RespError`].
    pub fn call(&mut self, parts: &[&[u8]]) -> Result<Value, RespError> {
        self.request.clear();
        encode(parts, &mut self.request);
        self.reader.get_mut().write_all(&self.request)?;
        decode(&mut self.reader)
    }
}

/// A request as bytes.
fn encode(parts: &[&[u8]], bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
    }
}

/// Reads one answer.
fn decode(reader: &mut impl BufRead) -> Result<Value, RespError> {
    let line = read_line(reader)?;
    let malformed = || RespError::Malformed(line.clone());
    let length = |text: &str, most: usize| match text.parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(length) => match usize::try_from(length) {
            Ok(length) if length <= most => Ok(Some(length)),
            _ => Err(malformed()),
        },
        Err(_) => Err(malformed()),
    };
    match line.split_at_checked(1) {
        Some(("+", text)) => Ok(Value::Status(text.to_owned())),
        Some(("-", text)) => Err(RespError::Refused(text.to_owned())),
        Some((":", text)) => text.parse().map(Value::Integer).map_err(|_| malformed()),
        Some(("$", text)) => match length(text, STRING_BYTES_MAX)? {
            None => Ok(Value::Bulk(None)),
            Some(length) => Ok(Value::Bulk(Some(read_string(reader, length)?))),
        },
        Some(("*", text)) => {
            let length = length(text, ARRAY_MAX)?.unwrap_or(0);
            let values: Result<_, _> = (0..length).map(|_| decode(reader)).collect();
            Ok(Value::Array(values?))
        }
        _ => Err(malformed()),
    }
}

fn read_line(reader: &mut impl BufRead) -> Result<String, RespError> {
    let mut line = Vec::new();
    reader.take(64 << 10).read_until(b'\n', &mut line)?;
    let text = String::from_utf8_lossy(&line);
    match text.strip_suffix("\r\n") {
        Some(text) => Ok(text.to_owned()),
        None if line.is_empty() => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        None => Err(RespError::Malformed(text.into_owned())),
    }
}

fn read_string(reader: &mut impl BufRead, length: usize) -> Result<Vec<u8>, RespError> {
    let mut bytes = vec![0; length + 2];
    reader.read_exact(&mut bytes)?;
    if bytes.ends_with(b"\r\n") {
        bytes.truncate(length);
        Ok(bytes)
    } else {
        Err(RespError::Malformed("a string without its end".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn request_is_an_array_of_strings() {
        let mut bytes = Vec::new();
        encode(&[b"SET", b"k", b"a\r\nb"], &mut bytes);
        assert_eq!(bytes, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n");
    }

    #[test]
    fn every_kind_of_answer_is_read() {
        let text = b"*4\r\n+OK\r\n:-7\r\n$3\r\na\r\n\r\n$-1\r\n";
        let answer = decode(&mut &text[..]).expect("valid");
        let expected = Value::Array(vec![
            Value::Status("OK".to_owned()),
            Value::Integer(-7),
            Value::Bulk(Some(b"a\r\n".to_vec())),
            Value::Bulk(None),
        ]);
        assert_eq!(answer, expected);
        let refused = decode(&mut &b"-OOM no memory\r\n"[..]).expect_err("refused");
        assert_eq!(refused.to_string(), "redis-server refuses: OOM no memory");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            // Only that it returns matters here.
            let _answer = decode(&mut &bytes[..]);
        }

        #[test]
        fn cut_answer_is_an_error(cut in 0..14_usize) {
            prop_assert!(decode(&mut &b"$8\r\nabcdefgh\r\n"[..cut]).is_err());
        }
    }
}

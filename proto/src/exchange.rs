//! One question to a daemon and its answer, for whoever may wait: on a stream that blocks.

use std::io::{self, Read, Write};

use crate::daemon::v1::{Request, Response, request, response};
use crate::frame::{self, FrameError, HEADER_BYTES};

/// Asks, and waits for the answer; none in an answer of a kind that this version does not know.
///
/// # Errors
/// The stream's; `InvalidData` for a frame that is too long or holds no answer.
pub fn exchange(
    stream: &mut (impl Read + Write),
    kind: request::Kind,
) -> io::Result<Option<response::Kind>> {
    let request = Request { kind: Some(kind) };
    stream.write_all(&frame::encode(&request).map_err(invalid)?)?;
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header)?;
    let mut body = vec![0; frame::body_len(header).map_err(invalid)?];
    stream.read_exact(&mut body)?;
    let answer: Response = frame::decode(&body).map_err(invalid)?;
    Ok(answer.kind)
}

fn invalid(error: FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::v1::{Refused, ReportRequest};
    use std::io::Cursor;

    /// What was written, and what will be read.
    struct Stream(Vec<u8>, Cursor<Vec<u8>>);

    impl Write for Stream {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Read for Stream {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            self.1.read(bytes)
        }
    }

    const QUESTION: request::Kind = request::Kind::Report(ReportRequest {
        known_change: 0,
        wait_ms: 0,
    });

    #[test]
    fn question_goes_out_and_the_answer_is_returned() {
        let kind = Some(response::Kind::Refused(Refused::default()));
        let answer = frame::encode(&Response { kind: kind.clone() }).expect("short");
        let mut stream = Stream(Vec::new(), Cursor::new(answer));
        assert_eq!(exchange(&mut stream, QUESTION).expect("an answer"), kind);
        let request: Request = frame::decode(&stream.0[HEADER_BYTES..]).expect("a request");
        assert_eq!(request.kind, Some(QUESTION));
    }

    #[test]
    fn frame_that_is_none_is_told_from_a_stream_that_ended() {
        let error = |bytes: &[u8]| {
            let mut stream = Stream(Vec::new(), Cursor::new(bytes.to_vec()));
            exchange(&mut stream, QUESTION)
                .expect_err("no answer")
                .kind()
        };
        assert_eq!(error(&[1, 0]), io::ErrorKind::UnexpectedEof);
        assert_eq!(error(&[0xff; 4]), io::ErrorKind::InvalidData);
        assert_eq!(error(&[1, 0, 0, 0, 0xff]), io::ErrorKind::InvalidData);
    }
}

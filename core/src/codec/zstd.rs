//! Compression around another codec.

use std::borrow::Cow;

use bytes::Bytes;
use zstd::bulk::Decompressor;
use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;

use super::{Codec, cannot_decode, cannot_encode};
use crate::Result;

/// Compresses what another codec writes, with zstd.
///
/// The first byte of a payload tells its framing: `0x01` is followed by zstd frames, `0x00` by the
/// plain payload; anything else is a plain payload from its first byte on, as it was before
/// compression was switched on. An empty payload is an error. Payloads that do not get smaller are
/// framed plain.
///
/// At most [`Zstd::DEFAULT_LIMIT`] bytes are inflated, or as [`Zstd::limit`] says, whatever size a
/// frame claims to have; memory grows with what a frame really inflates to. A larger payload is
/// framed plain, so that it reads back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zstd<C> {
    codec: C,
    level: i32,
    limit: usize,
}

const PLAIN: u8 = 0;
const COMPRESSED: u8 = 1;

/// Below this size a frame's own header costs what compression gains.
const SMALLEST: usize = 32;

/// The least memory that inflating begins with: what most payloads fit in.
const FIRST_BUFFER: usize = 16 * 1024;

impl Zstd<()> {
    /// The most bytes that a payload is inflated to, unless configured: 64 MiB.
    pub const DEFAULT_LIMIT: usize = 64 * 1024 * 1024;
}

impl<C> Zstd<C> {
    /// Compresses what `codec` writes.
    pub fn new(codec: C) -> Self {
        Self {
            codec,
            level: zstd::DEFAULT_COMPRESSION_LEVEL,
            limit: Zstd::DEFAULT_LIMIT,
        }
    }

    /// Sets zstd's level: 1 is fast, 22 is small; 3 unless set. Others are moved into the range
    /// that zstd knows.
    #[must_use]
    pub fn level(mut self, level: i32) -> Self {
        let range = zstd::compression_level_range();
        self.level = level.clamp(*range.start(), *range.end());
        self
    }

    /// Sets the most bytes that a payload is inflated to.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    fn frame(&self, plain: &[u8]) -> Result<Bytes> {
        if (SMALLEST..=self.limit).contains(&plain.len()) {
            let body = zstd::bulk::compress(plain, self.level)
                .map_err(|error| cannot_encode("zstd", error))?;
            if body.len() < plain.len() {
                return Ok(framed(COMPRESSED, &body));
            }
        }
        Ok(framed(PLAIN, plain))
    }

    fn unframe<'a>(&self, payload: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        match payload.split_first() {
            None => Err(cannot_decode(
                "the payload is empty, a framed one has at least one byte",
            )),
            Some((&COMPRESSED, frames)) => self.inflate(frames).map(Cow::Owned),
            Some((&PLAIN, plain)) => Ok(Cow::Borrowed(plain)),
            Some(_) => Ok(Cow::Borrowed(payload)),
        }
    }

    /// Inflates in one go into a buffer that is enlarged and tried again where it was too small.
    ///
    /// A streaming decoder would allocate the window that the frame's header asks for; this way a
    /// header is only ever believed where it asks for little.
    fn inflate(&self, frames: &[u8]) -> Result<Vec<u8>> {
        let damaged = || cannot_decode("the payload's zstd frame is damaged or cut short");
        let too_large = || {
            let limit = self.limit;
            cannot_decode(format!("the payload inflates to more than {limit} bytes"))
        };
        if frames.is_empty() {
            return Err(damaged());
        }
        let claimed = zstd::decompressed_size(frames);
        if claimed.is_some_and(|size| usize::try_from(size).map_or(true, |size| size > self.limit))
        {
            return Err(too_large());
        }
        let claimed = claimed
            .and_then(|size| usize::try_from(size).ok())
            .unwrap_or(usize::MAX);
        let likely = frames.len().saturating_mul(8).max(FIRST_BUFFER);
        let mut capacity = likely.min(claimed).min(self.limit);
        let mut inflater = Decompressor::new().map_err(|error| damaged().with_source(error))?;
        loop {
            let mut plain = Vec::new();
            // Nothing to inflate still needs a place to be written to.
            plain
                .try_reserve_exact(capacity.max(1))
                .map_err(|_| too_large())?;
            match inflater.decompress_to_buffer(frames, &mut plain) {
                Ok(_) if plain.len() <= self.limit => return Ok(plain),
                Ok(_) => return Err(too_large()),
                Err(error) if !is_too_small(&error) => return Err(damaged().with_source(error)),
                Err(_) if capacity >= self.limit => return Err(too_large()),
                Err(_) => capacity = capacity.max(1).saturating_mul(4).min(self.limit),
            }
        }
    }
}

fn framed(tag: u8, body: &[u8]) -> Bytes {
    let mut payload = Vec::with_capacity(body.len() + 1);
    payload.push(tag);
    payload.extend_from_slice(body);
    payload.into()
}

fn is_too_small(error: &std::io::Error) -> bool {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<zstd::Error>())
        .is_some_and(|inner| inner.is(ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall))
}

impl<T, C: Codec<T>> Codec<T> for Zstd<C> {
    fn encode(&self, value: &T) -> Result<Bytes> {
        self.frame(&self.codec.encode(value)?)
    }

    fn decode(&self, payload: &[u8]) -> Result<T> {
        self.codec.decode(&self.unframe(payload)?)
    }

    fn version(&self) -> u32 {
        self.codec.version()
    }

    fn decode_version(&self, version: u32, payload: &[u8]) -> Result<T> {
        self.codec.decode_version(version, &self.unframe(payload)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, Raw};

    fn decode(payload: &[u8]) -> Result<Bytes> {
        Codec::<Bytes>::decode(&Zstd::new(Raw), payload)
    }

    /// A frame with a content size in its header, and blocks of one repeated byte.
    fn hostile(claim: u64, blocks: usize) -> Vec<u8> {
        const BLOCK: u32 = 128 * 1024;
        let mut frame = vec![COMPRESSED, 0x28, 0xb5, 0x2f, 0xfd, 0b1110_0000];
        frame.extend_from_slice(&claim.to_le_bytes());
        for block in 1..=blocks {
            let header = (BLOCK << 3) | (1 << 1) | u32::from(block == blocks);
            frame.extend_from_slice(&header.to_le_bytes()[..3]);
            frame.push(b'x');
        }
        frame
    }

    #[test]
    fn the_first_byte_tells_the_framing() {
        let squeezed = zstd::bulk::compress(b"text", 3).unwrap();
        let frame = [&[1], squeezed.as_slice()].concat();
        assert_eq!(decode(&frame).unwrap(), "text");
        assert_eq!(decode(b"\0text").unwrap(), "text");
        assert_eq!(decode(b"text").unwrap(), "text");
        assert_eq!(decode(b"\0").unwrap(), "");
        assert_eq!(decode(b"").unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_frame_of_unknown_size_or_of_several_parts_inflates() {
        let unknown = zstd::stream::encode_all(&vec![7_u8; 100_000][..], 3).unwrap();
        let frame = [&[1], unknown.as_slice(), unknown.as_slice()].concat();
        assert_eq!(decode(&frame).unwrap(), vec![7; 200_000]);
    }

    #[test]
    fn only_what_gets_smaller_is_compressed() {
        let codec = Zstd::new(Raw);
        let small = codec.encode(&Bytes::from_static(b"short")).unwrap();
        assert_eq!(small, &b"\0short"[..]);
        let repeated = codec.encode(&Bytes::from(vec![b'a'; 1000])).unwrap();
        assert_eq!(repeated[0], COMPRESSED);
        assert!(repeated.len() < 100);
    }

    #[test]
    fn damage_is_an_error() {
        let whole = Zstd::new(Raw)
            .encode(&Bytes::from(vec![b'a'; 1000]))
            .unwrap();
        for end in 1..whole.len() {
            assert_eq!(
                decode(&whole[..end]).unwrap_err().kind(),
                ErrorKind::Corrupt,
                "{end}"
            );
        }
        let longer = [&whole[..], b"rest"].concat();
        assert_eq!(decode(&longer).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn no_more_than_the_limit_is_inflated() {
        let plain = Bytes::from(vec![b'a'; 100_000]);
        let payload = Zstd::new(Raw).encode(&plain).unwrap();
        let exact = Zstd::new(Raw).limit(100_000);
        assert_eq!(exact.decode(&payload).unwrap(), plain);
        let unknown = zstd::stream::encode_all(&plain[..], 3).unwrap();
        let unknown = [&[1], unknown.as_slice()].concat();
        assert_eq!(exact.decode(&unknown).unwrap(), plain);
        for payload in [payload.to_vec(), unknown] {
            let error = Zstd::new(Raw).limit(99_999).decode(&payload).unwrap_err();
            assert!(
                error.to_string().contains("more than 99999 bytes"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_frame_that_claims_much_is_refused_and_one_that_lies_is_damaged() {
        let error = decode(&hostile(u64::MAX - 2, 1)).unwrap_err();
        assert!(
            error.to_string().contains("inflates to more than 67108864"),
            "{error}"
        );
        assert!(
            decode(&hostile(64 << 20, 1))
                .unwrap_err()
                .to_string()
                .contains("damaged")
        );
        // It says little and holds much: the bound is on what really comes out.
        assert!(decode(&hostile(1, 1000)).is_err());
        assert_eq!(
            decode(&hostile(512 * 128 * 1024, 512)).unwrap().len(),
            64 << 20
        );
    }

    #[test]
    fn a_payload_above_the_limit_is_framed_plain_and_reads_back() {
        let codec = Zstd::new(Raw).limit(1000);
        let plain = Bytes::from(vec![b'a'; 1001]);
        let payload = codec.encode(&plain).unwrap();
        assert_eq!(payload[0], PLAIN);
        assert_eq!(codec.decode(&payload).unwrap(), plain);
    }
}

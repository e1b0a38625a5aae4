//! Every maximum of the format and the protocol, once (docs/format.md, section "Limits").

/// Format number of every object written by this version.
pub const FORMAT: u8 = 1;
/// Suite 1: BLAKE3, Ed25519, HKDF-SHA256, AES-256-GCM, zstd, HPKE with X-Wing or X25519.
pub const SUITE: u8 = 1;

/// Sealed parts start and end on multiples of this many bytes.
pub const ALIGN: usize = 4096;
/// Bytes of the authentication tag that ends a sealed part.
pub const TAG_BYTES: usize = 16;

/// Largest chunk, in bytes of plaintext.
pub const CHUNK_BYTES_MAX: usize = 4 << 20;
/// Largest plaintext of one block after decompression.
pub const BLOCK_BYTES_MAX: usize = 8 << 20;
/// Largest sealed part (block or chunk table), a multiple of [`ALIGN`].
pub const SEALED_BYTES_MAX: usize = (8 << 20) + ALIGN;
/// Parts of one archive, its chunk table included.
pub const ARCHIVE_PARTS_MAX: usize = 4096;
/// Chunks of one archive.
pub const ARCHIVE_CHUNKS_MAX: usize = 65_536;
/// Largest archive as a whole, header region included.
pub const ARCHIVE_BYTES_MAX: u64 = 80 << 20;
/// Largest archive number.
pub const ARCHIVE_NUMBER_MAX: u64 = (1 << 48) - 1;

/// Largest signed index (as stored, header and signature included).
pub const INDEX_BYTES_MAX: usize = 512 << 10;
/// Largest envelope, and largest wrap object.
pub const ENVELOPE_BYTES_MAX: usize = 64 << 10;
/// Largest header region of an archive: signed index, envelope, padding.
pub const REGION_BYTES_MAX: usize = INDEX_BYTES_MAX + ENVELOPE_BYTES_MAX;
/// Recipients of one envelope.
pub const RECIPIENTS_MAX: usize = 16;

/// Archives that one ref page may name; also the span of numbers that a page covers.
pub const PAGE_ARCHIVES: u64 = 1024;
/// Largest ref page.
pub const PAGE_BYTES_MAX: usize = 1 << 20;
/// Ref pages of one body.
pub const BODY_PAGES_MAX: usize = 65_536;
/// Largest body.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// Largest sealed root inside a body.
pub const ROOT_BYTES_MAX: usize = 1 << 20;
/// Largest head.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Remotes that one head may mention.
pub const HEAD_REMOTES_MAX: usize = 32;
/// Longest reason text in a head, bytes of UTF-8.
pub const REASON_BYTES_MAX: usize = 1024;
/// Largest receipt.
pub const RECEIPT_BYTES_MAX: usize = 4 << 10;
/// Heads of one chain that a reader takes, and bytes of them with their receipts. What is longer it takes for endless.
pub const CHAIN_HEADS_READ_MAX: usize = 1 << 20;
pub const CHAIN_BYTES_READ_MAX: usize = 256 << 20;
/// Heads of one chain that a sink takes, and bytes of them with their receipts: less than a reader does, so that no
/// source can make its own history too long to be read.
pub const CHAIN_HEADS_MAX: u64 = 1_000_000;
pub const CHAIN_BYTES_MAX: u64 = 240 << 20;
/// Largest owner record.
pub const OWNER_BYTES_MAX: usize = 1 << 20;
/// Largest voucher or release.
pub const VOUCHER_BYTES_MAX: usize = 4 << 10;
/// Largest substitute record.
pub const SUBSTITUTE_BYTES_MAX: usize = 1 << 20;
/// All substitute records of a source that a sink takes; less than a reader takes of a lineage
/// ([`READ_OBJECTS_BYTES_MAX`]), so that no source can make them unreadable by their mass.
pub const SUBSTITUTES_BYTES_MAX: u64 = 96 << 20;
/// All wraps of a source that a sink takes, for the same reason.
pub const WRAPS_BYTES_MAX: u64 = 96 << 20;
/// Objects of one row (owner records, vouchers, substitutes, …) that a reader takes, in bytes.
pub const READ_OBJECTS_BYTES_MAX: usize = 128 << 20;
/// Largest session record.
pub const RECORD_BYTES_MAX: usize = 4 << 20;
/// Archives that one session record may list; a longer session publishes several.
pub const RECORD_ARCHIVES_MAX: usize = 8192;

/// Entries of one tree node.
pub const NODE_ENTRIES_MAX: usize = 4096;
/// Chunk or node references of one list.
pub const NODE_REFS_MAX: usize = 4096;
/// Levels of a directory's node tree or of a file's list tree.
pub const NODE_LEVELS_MAX: u8 = 4;
/// Directories inside one another.
pub const TREE_DEPTH_MAX: usize = 4096;
/// Longest file name.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest symbolic link target.
pub const LINK_BYTES_MAX: usize = 4096;
/// Longest path among a snapshot's paths.
pub const PATH_BYTES_MAX: usize = 4096;
/// Extended attributes of one entry.
pub const XATTRS_MAX: usize = 256;
/// Largest extended attribute value.
pub const XATTR_BYTES_MAX: usize = 64 << 10;
/// All extended attribute names and values of one entry together.
pub const XATTR_TOTAL_BYTES_MAX: usize = 512 << 10;

/// Longest source name.
pub const SOURCE_NAME_BYTES_MAX: usize = 64;
/// Longest card, as text.
pub const CARD_BYTES_MAX: usize = 4096;

/// Largest frame of the protocol: tag and payload.
pub const FRAME_BYTES_MAX: usize = (4 << 20) + (64 << 10);
/// Largest payload of a data frame.
pub const DATA_BYTES_MAX: usize = 1 << 20;
/// Bytes of anything in a ping, to measure a line with.
pub const PING_BYTES_MAX: usize = 1 << 16;
/// Items in one list reply.
pub const LIST_ITEMS_MAX: usize = 8192;
/// Archives of one list of damage.
pub const DAMAGED_ARCHIVES_MAX: usize = 1024;
/// Longest message text in a refusal.
pub const MESSAGE_BYTES_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_takes_every_chain_that_a_sink_takes() {
        // The last head and its receipt may be as large as they like.
        let bytes = CHAIN_BYTES_MAX + (HEAD_BYTES_MAX + RECEIPT_BYTES_MAX) as u64;
        assert!(bytes < CHAIN_BYTES_READ_MAX as u64 && CHAIN_HEADS_MAX < CHAIN_HEADS_READ_MAX as u64);
    }
}

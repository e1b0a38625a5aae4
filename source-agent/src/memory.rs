//! The allocator's ways: large buffers go back to the system as soon as they are free.

/// Buffers from this size on are mapped for themselves: blocks, sealed parts, windows of SSH.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: libc::c_int = 256 << 10;

/// Fixes the size from which glibc maps a buffer for itself. Left alone glibc raises it with every large buffer that is
/// freed, up to 32 MiB; then blocks of changing sizes, made in one thread and freed in another, leave holes in the heap
/// of each thread: 60 to 100 MiB in a first backup, for no time won (docs/performance.md).
///
/// To be called before there are threads. Does nothing with other C libraries: musl maps large buffers anyway.
#[cfg_attr(target_env = "gnu", allow(unsafe_code, reason = "no safe crate offers mallopt"))]
pub fn give_back_large_buffers() {
    // SAFETY: mallopt takes two integers and changes numbers within the allocator alone, under its own lock.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
    }
}

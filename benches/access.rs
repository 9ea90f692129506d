//! What keys cost with a million of them: `cargo bench --bench access` prints figures and asserts none. Targets: a known
//! key in at most 1 µs, at most 300 MB, and a swap of the snapshot that adds no pause over 5 ms to those who call.

#[path = "access/cost.rs"]
mod cost;
#[path = "access/memory.rs"]
mod memory;
#[path = "access/store.rs"]
mod store;
#[path = "access/swap.rs"]
mod swap;

use std::error::Error;

/// As the proxy has it: memory is measured as it will be.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Why a bench did not run.
type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    // The bench runs itself to measure memory in a process that has done nothing else.
    if let Some(path) = std::env::var_os(memory::STORE) {
        return memory::child(path.as_ref());
    }
    let filled = store::fill()?;
    memory::figures(&filled)?;
    cost::figures(&filled)?;
    swap::figures(&filled)
}

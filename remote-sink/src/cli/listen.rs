//! `remote-sink listen`: the sink's own SSH server.

use super::{Context, DONE};
use crate::cli::vault::Vault;
use crate::listen::{self, Graces, ListenOptions, Log};
use crate::report::Failure;
use std::path::Path;
use tokio::signal::unix::{SignalKind, signal};

/// Run the sink's own SSH server for enrolled keys
///
/// A door beside sshd, to the same sessions: only enrolled keys come in, and all they can do is what their role allows.
/// There is no shell, no sftp and no forwarding. Needs no root. Prints `listening on ADDRESS` when it is ready and ends
/// on SIGTERM or SIGINT. Its host key is part of every sink card.
#[derive(Debug, clap::Args)]
pub struct ListenArgs {
    /// Where to listen; port 0 takes a free one [default: [listen] address in vault.toml, else 127.0.0.1:2222]
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<String>,
}

pub fn run(args: &ListenArgs, context: &mut Context<'_>) -> Result<u8, Failure> {
    let vault = Vault::open(context.global.root.as_deref())?;
    let configured = vault.config.listen.address.clone();
    let address = args.address.clone().or(configured).unwrap_or_else(|| "127.0.0.1:2222".into());
    let program = std::env::current_exe().map_err(|e| Failure::io("find", Path::new("remote-sink"), &e))?;
    let log = match (context.global.quiet, context.global.verbose) {
        (true, _) => Log::Quiet,
        (_, true) => Log::Details,
        _ => Log::Lines,
    };
    let options =
        ListenOptions { root: vault.layout.root().to_owned(), address, program, log, graces: Graces::default() };
    let start = |e| Failure::from(listen::ListenError::Start(e));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(start)?;
    let out = &mut *context.out;
    let served = runtime.block_on(async {
        let stop = stopped().map_err(start)?;
        let ready = |address| {
            // Whoever started the server may not read this; it serves all the same.
            let _ = writeln!(out, "listening on {address}").and_then(|()| out.flush());
        };
        Ok::<_, Failure>(listen::run(options, ready, stop).await?)
    });
    runtime.shutdown_background();
    served?;
    DONE
}

/// Ends at the first SIGTERM or SIGINT; the second one ends the process at once.
fn stopped() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => std::process::exit(143),
                _ = interrupt.recv() => std::process::exit(130),
            }
        });
    })
}

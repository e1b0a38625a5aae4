//! The operator's program: see `remote-sink --help`.

fn main() -> std::process::ExitCode {
    remote_sink::cli::main()
}

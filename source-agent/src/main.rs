use std::process::ExitCode;

fn main() -> ExitCode {
    source_agent::cli::main()
}

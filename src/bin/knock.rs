fn main() -> std::process::ExitCode {
    libknock::client::main()
}

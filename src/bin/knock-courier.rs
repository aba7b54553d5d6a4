//! `knock-courier`: see knockd(8), which starts it.

fn main() -> std::process::ExitCode {
    libknock::courier::run()
}

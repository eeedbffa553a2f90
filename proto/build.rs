//! Compiles the .proto files with protox: no protoc on a builder's machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["control.proto", "daemon.proto", "common.proto"], ["proto"])?;
    if std::env::var_os("CARGO_FEATURE_GRPC").is_some() {
        tonic_prost_build::configure().compile_fds(files)?;
    } else {
        prost_build::Config::new().compile_fds(files)?;
    }
    Ok(())
}

//! Compiles the wire schemas. `protox` reads them, so no `protoc` is needed; nothing is committed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let schemas =
        protox::compile(["proto/exchange.proto", "proto/bitswap.proto", "proto/kad.proto"], ["proto"])?;
    prost_build::Config::new().bytes([".dunlin.exchange.Node.data", ".bitswap.pb"]).compile_fds(schemas)?;
    Ok(())
}

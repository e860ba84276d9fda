//! `dunlin config`: the settings in force.

use anyhow::Result;

use super::escape::escape;
use super::resolve::Resolved;

pub fn run(resolved: &Resolved) -> Result<()> {
    if resolved.out.is_json() {
        let settings: toml::Value = toml::from_str(&resolved.config.to_toml())?;
        resolved.out.json(&settings)?;
        return Ok(());
    }
    let dir = resolved.data_dir.to_string_lossy();
    resolved.out.text(&format!("# data directory: {}\n\n{}", escape(&dir), resolved.config.to_toml()))?;
    Ok(())
}

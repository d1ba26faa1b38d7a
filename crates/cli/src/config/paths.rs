//! Where things lie if nobody says otherwise: the folders of the XDG base directory specification.

use std::path::{Path, PathBuf};

use crate::init;

fn folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    // The specification: a relative path is not used.
    let said = std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    said.or_else(|| {
        std::env::home_dir()
            .filter(|home| home.is_absolute())
            .map(|home| home.join(below_home))
    })
}

/// The configuration of the user's client, `mizzle/client.toml` in `XDG_CONFIG_HOME` or `~/.config`; `None` where there
/// is no home.
#[must_use]
pub fn client_config() -> Option<PathBuf> {
    folder("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("mizzle/client.toml"))
}

/// The network of `mizzle up`, `mizzle/up` in `XDG_STATE_HOME` or `~/.local/state`; `None` where there is no home.
#[must_use]
pub fn up() -> Option<PathBuf> {
    folder("XDG_STATE_HOME", ".local/state").map(|folder| folder.join("mizzle/up"))
}

/// The configuration of the client that commands mean where nothing is said: the user's ([`client_config`]), or if he has none that
/// of `mizzle up`; `None` where there is neither.
#[must_use]
pub fn found_client() -> Option<PathBuf> {
    let of_up = up().map(|folder| init::client_config(&folder));
    [client_config(), of_up]
        .into_iter()
        .flatten()
        .find(|config| config.exists())
}

/// The state of the node or client with this configuration, `mizzle/NAME` in `XDG_STATE_HOME` or `~/.local/state`, where
/// NAME is that of the file without its ending; `None` where there is no home.
#[must_use]
pub fn state(config: &Path) -> Option<PathBuf> {
    let name = config.file_stem()?;
    folder("XDG_STATE_HOME", ".local/state").map(|folder| folder.join("mizzle").join(name))
}

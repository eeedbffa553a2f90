//! An image archive: an OCI layout in a tar file, which `docker load` and `podman load` take as
//! well as `ctr images import`.
//!
//! Pure but for reading files. Entries are sorted, owned by root and as old as time itself.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// When everything in an image was made.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Folder,
    File(Vec<u8>),
    /// A symbolic link to this path.
    Link(String),
}

/// A file, folder or link in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path without a leading slash.
    path: String,
    mode: u32,
    content: Content,
}

impl Entry {
    /// A folder.
    pub fn folder(path: &str, mode: u32) -> Self {
        Self {
            path: path.to_owned(),
            mode,
            content: Content::Folder,
        }
    }

    /// A symbolic link.
    pub fn link(path: &str, to: &str) -> Self {
        Self {
            path: path.to_owned(),
            mode: 0o777,
            content: Content::Link(to.to_owned()),
        }
    }

    /// A file with the content of one that is there.
    pub fn file(path: &str, mode: u32, from: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(from).with_context(|| format!("{} cannot be read", from.display()))?;
        Ok(Self::bytes(path, mode, bytes))
    }

    fn bytes(path: &str, mode: u32, bytes: Vec<u8>) -> Self {
        Self {
            path: path.to_owned(),
            mode,
            content: Content::File(bytes),
        }
    }
}

/// A layer of an image.
#[derive(Debug, Clone)]
pub struct Layer {
    /// What it holds, for `docker history`.
    what: &'static str,
    /// Digest of the tar file, which the image's configuration names.
    plain: String,
    /// The tar file, compressed.
    packed: Vec<u8>,
}

impl Layer {
    /// A layer of these entries and of every folder above them.
    pub fn of(what: &'static str, entries: Vec<Entry>) -> Result<Self> {
        let mut sorted = BTreeMap::new();
        for entry in entries {
            for folder in Path::new(&entry.path).ancestors().skip(1) {
                let folder = folder.to_string_lossy().into_owned();
                if !folder.is_empty() {
                    sorted
                        .entry(folder.clone())
                        .or_insert_with(|| Entry::folder(&folder, 0o755));
                }
            }
            let path = entry.path.clone();
            if let Some(before) = sorted.insert(path.clone(), entry)
                && before.content != Content::Folder
            {
                bail!("'{path}' comes twice into the layer '{what}'");
            }
        }
        let tar = tar(sorted.into_values())?;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let packed = encoder.write_all(&tar).and_then(|()| encoder.finish());
        Ok(Self {
            what,
            plain: digest(&tar),
            packed: packed.context("compressing a layer")?,
        })
    }
}

/// An image.
#[derive(Debug)]
pub struct Image {
    /// How its program is run.
    pub config: Value,
    /// From the bottom to the top.
    pub layers: Vec<Layer>,
}

impl Image {
    /// The archive of the image with this name and tag.
    pub fn archive(&self, reference: &str) -> Result<Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut blob = |bytes: Vec<u8>, kind: &str| {
            let digest = digest(&bytes);
            let descriptor = json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": format!("sha256:{digest}"),
                "size": bytes.len(),
            });
            let path = format!("blobs/sha256/{digest}");
            files.insert(path.clone(), bytes);
            (descriptor, path)
        };
        let config = self.configuration().to_string().into_bytes();
        let (config, config_path) = blob(config, "config.v1+json");
        let layers = self.layers.iter();
        let (layers, layer_paths): (Vec<Value>, Vec<String>) = layers
            .map(|layer| blob(layer.packed.clone(), "layer.v1.tar+gzip"))
            .unzip();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
        });
        let (mut manifest, _) = blob(manifest.to_string().into_bytes(), "manifest.v1+json");
        let tag = reference.rsplit(':').next().unwrap_or_default();
        manifest["platform"] = json!({"architecture": "amd64", "os": "linux"});
        manifest["annotations"] = json!({
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": tag,
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [manifest],
        });
        // What `docker load` reads.
        let docker = json!([{
            "Config": config_path, "RepoTags": [reference], "Layers": layer_paths,
        }]);
        let layout = json!({"imageLayoutVersion": "1.0.0"});
        for (name, value) in [
            ("index.json", index),
            ("manifest.json", docker),
            ("oci-layout", layout),
        ] {
            files.insert(name.to_owned(), value.to_string().into_bytes());
        }
        tar(files
            .into_iter()
            .map(|(path, bytes)| Entry::bytes(&path, 0o644, bytes)))
    }

    fn configuration(&self) -> Value {
        let plain = self
            .layers
            .iter()
            .map(|layer| format!("sha256:{}", layer.plain));
        let history = self.layers.iter().map(|layer| {
            json!({"created": CREATED, "created_by": format!("cargo xtask image: {}", layer.what)})
        });
        json!({
            "architecture": "amd64",
            "os": "linux",
            "created": CREATED,
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": plain.collect::<Vec<_>>()},
            "history": history.collect::<Vec<_>>(),
        })
    }
}

fn tar(entries: impl Iterator<Item = Entry>) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let Entry {
            path,
            mode,
            content,
        } = &entry;
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        let appended = match content {
            Content::Folder => {
                header.set_entry_type(tar::EntryType::Directory);
                builder.append_data(&mut header, format!("{path}/"), &[][..])
            }
            Content::Link(to) => {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, path, to)
            }
            Content::File(bytes) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(u64::try_from(bytes.len()).context("a file beyond 64 bits")?);
                builder.append_data(&mut header, path, &bytes[..])
            }
        };
        appended.with_context(|| format!("packing '{path}'"))?;
    }
    builder.into_inner().context("packing")
}

/// SHA-256 in hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    const REFERENCE: &str = "localhost/dynamicswap-x:1.2.3";

    fn entries() -> Vec<Entry> {
        vec![
            Entry::bytes("usr/bin/x", 0o755, b"program".to_vec()),
            Entry::folder("tmp", 0o1777),
            Entry::link("lib", "usr/lib"),
        ]
    }

    fn image(entries: Vec<Entry>) -> Image {
        Image {
            config: json!({"Entrypoint": ["/usr/bin/x"]}),
            layers: vec![Layer::of("programs", entries).expect("a layer")],
        }
    }

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().expect("a tar file");
        entries
            .map(|entry| {
                let mut entry = entry.expect("an entry");
                let path = entry.path().expect("a path").display().to_string();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).expect("its content");
                (path, bytes)
            })
            .collect()
    }

    fn json_of(files: &BTreeMap<String, Vec<u8>>, path: &str) -> Value {
        serde_json::from_slice(&files[path]).expect("JSON")
    }

    /// The content that a descriptor names, once digest and size were found true.
    fn blob<'f>(files: &'f BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'f [u8] {
        let name = descriptor["digest"].as_str().expect("a digest");
        let name = name.strip_prefix("sha256:").expect("SHA-256");
        let bytes = &files[&format!("blobs/sha256/{name}")];
        assert_eq!(digest(bytes), name);
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    }

    #[test]
    fn digest_is_that_of_other_programs() {
        assert_eq!(
            digest(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn same_entries_in_any_order_make_the_same_bytes() {
        let forth = image(entries()).archive(REFERENCE).expect("an archive");
        let back = image(entries().into_iter().rev().collect());
        assert_eq!(back.archive(REFERENCE).expect("an archive"), forth);
    }

    #[test]
    fn archive_leads_from_its_name_to_every_file() {
        let archive = image(entries()).archive(REFERENCE).expect("an archive");
        let files = files(&archive);
        assert_eq!(json_of(&files, "oci-layout")["imageLayoutVersion"], "1.0.0");
        let index = json_of(&files, "index.json");
        let manifest = &index["manifests"][0];
        assert_eq!(
            manifest["annotations"]["io.containerd.image.name"],
            REFERENCE
        );
        assert_eq!(
            manifest["annotations"]["org.opencontainers.image.ref.name"],
            "1.2.3"
        );
        let manifest: Value = serde_json::from_slice(blob(&files, manifest)).expect("JSON");
        let config: Value =
            serde_json::from_slice(blob(&files, &manifest["config"])).expect("JSON");
        assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/x");
        let packed = blob(&files, &manifest["layers"][0]);
        let mut plain = Vec::new();
        let read = flate2::read::GzDecoder::new(packed).read_to_end(&mut plain);
        assert!(read.is_ok());
        let named = format!("sha256:{}", digest(&plain));
        assert_eq!(config["rootfs"]["diff_ids"], json!([named]));
        let docker = json_of(&files, "manifest.json");
        assert_eq!(docker[0]["RepoTags"][0], REFERENCE);
        for path in [&docker[0]["Config"], &docker[0]["Layers"][0]] {
            assert!(files.contains_key(path.as_str().expect("a path")), "{path}");
        }
    }

    #[test]
    fn layer_has_folders_before_their_files_and_tells_no_time_and_no_owner() {
        let tar = tar(entries().into_iter()).expect("a tar file");
        let layer = Layer::of("programs", entries()).expect("a layer");
        let mut plain = Vec::new();
        let read = flate2::read::GzDecoder::new(&layer.packed[..]).read_to_end(&mut plain);
        assert!(read.is_ok() && plain.len() >= tar.len());
        let mut archive = tar::Archive::new(&plain[..]);
        let mut seen = Vec::new();
        for entry in archive.entries().expect("a tar file") {
            let entry = entry.expect("an entry");
            let header = entry.header();
            assert_eq!(header.mtime().ok(), Some(0));
            assert_eq!((header.uid().ok(), header.gid().ok()), (Some(0), Some(0)));
            let path = entry.path().expect("a path").display().to_string();
            seen.push((path, header.mode().expect("a mode")));
        }
        let expected = [
            ("lib", 0o777),
            ("tmp/", 0o1777),
            ("usr/", 0o755),
            ("usr/bin/", 0o755),
            ("usr/bin/x", 0o755),
        ];
        let expected = expected.map(|(path, mode)| (path.to_owned(), mode));
        assert_eq!(seen, expected);
    }

    #[test]
    fn file_that_comes_twice_is_refused() {
        let twice = vec![
            Entry::bytes("a", 0o644, b"1".to_vec()),
            Entry::bytes("a", 0o644, b"2".to_vec()),
        ];
        let error = Layer::of("programs", twice).expect_err("twice");
        assert!(error.to_string().contains("'a' comes twice"), "{error}");
    }

    #[test]
    fn long_paths_survive() {
        let path = format!("usr/share/doc/{}/copyright", "x".repeat(200));
        let tar = tar([Entry::bytes(&path, 0o644, b"text".to_vec())].into_iter());
        assert_eq!(files(&tar.expect("a tar file"))[&path], b"text");
    }
}

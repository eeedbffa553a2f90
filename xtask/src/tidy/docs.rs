//! Rules: every file opens with a `//!` header, every public item has a doc comment.

use syn::spanned::Spanned as _;
use syn::visit::Visit;

use super::Finding;
use super::source::RustFile;

/// The file's first line says what the file owns.
pub fn header(file: &RustFile) -> Vec<Finding> {
    if file.text.starts_with("//! ") {
        return Vec::new();
    }
    let remedy = "open it with '//!' lines that say what it owns and what it must not do";
    vec![Finding::new(
        &file.path,
        1,
        "the file has no header",
        remedy,
    )]
}

/// Public items outside of tests have doc comments, fields and variants included.
pub fn public_items(file: &RustFile) -> Vec<Finding> {
    let mut walk = Walk {
        file,
        findings: Vec::new(),
        seen: 0,
    };
    walk.visit_file(&file.syntax);
    walk.findings
}

/// Documented and all public items of the file.
pub fn documented(file: &RustFile) -> (usize, usize) {
    let mut walk = Walk {
        file,
        findings: Vec::new(),
        seen: 0,
    };
    walk.visit_file(&file.syntax);
    (walk.seen - walk.findings.len(), walk.seen)
}

struct Walk<'a> {
    file: &'a RustFile,
    findings: Vec<Finding>,
    seen: usize,
}

impl Walk<'_> {
    fn check(&mut self, is_public: bool, attributes: &[syn::Attribute], name: &syn::Ident) {
        let line = name.span().start().line;
        if !is_public || self.file.in_test(line) {
            return;
        }
        self.seen += 1;
        let documented = attributes
            .iter()
            .any(|attribute| attribute.path().is_ident("doc"));
        if !documented {
            let what = format!("public '{name}' has no doc comment");
            let remedy = "say in a sentence what it is for";
            self.findings
                .push(Finding::new(&self.file.path, line, what, remedy));
        }
    }

    fn check_fields(&mut self, fields: &syn::Fields, all_public: bool) {
        for field in fields {
            if let Some(name) = &field.ident {
                self.check(all_public || is_public(&field.vis), &field.attrs, name);
            }
        }
    }
}

/// Whether the item carries `#[expect(missing_docs)]`, whose reason the compiler keeps.
fn is_excused(attributes: &[syn::Attribute]) -> bool {
    let mut lists = attributes
        .iter()
        .filter_map(|attribute| attribute.meta.require_list().ok());
    lists.any(|list| list.tokens.to_string().contains("missing_docs"))
}

fn is_public(visibility: &syn::Visibility) -> bool {
    matches!(visibility, syn::Visibility::Public(_))
}

impl<'ast> Visit<'ast> for Walk<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.check(is_public(&item.vis), &item.attrs, &item.sig.ident);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.check(is_public(&item.vis), &item.attrs, &item.ident);
        self.check_fields(&item.fields, false);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        let public = is_public(&item.vis) && !is_excused(&item.attrs);
        self.check(public, &item.attrs, &item.ident);
        for variant in &item.variants {
            self.check(public, &variant.attrs, &variant.ident);
            self.check_fields(&variant.fields, public);
        }
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        let public = is_public(&item.vis);
        self.check(public, &item.attrs, &item.ident);
        for member in &item.items {
            if let syn::TraitItem::Fn(function) = member {
                self.check(public, &function.attrs, &function.sig.ident);
            }
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.check(is_public(&item.vis), &item.attrs, &item.sig.ident);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.check(is_public(&item.vis), &item.attrs, &item.ident);
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.check(is_public(&item.vis), &item.attrs, &item.ident);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.check(is_public(&item.vis), &item.attrs, &item.ident);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        // A module in its own file has its header there.
        let own_file = item.content.is_none();
        if is_public(&item.vis) && !own_file && !self.file.in_test(item.span().start().line) {
            let inner = item
                .attrs
                .iter()
                .any(|attribute| attribute.path().is_ident("doc"));
            self.check(!inner, &item.attrs, &item.ident);
        }
        syn::visit::visit_item_mod(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::sample;

    #[test]
    fn file_without_header_is_found() {
        assert_eq!(header(&sample("a/src/lib.rs", "fn f() {}\n")).len(), 1);
        assert!(header(&sample("a/src/lib.rs", "//! Owns f.\nfn f() {}\n")).is_empty());
    }

    #[test]
    fn public_items_without_docs_are_found_with_their_line() {
        let file = sample(
            "a/src/lib.rs",
            "pub struct S {\n pub a: u8,\n b: u8,\n}\npub enum E {\n V,\n}\nfn private() {}\npub(crate) fn inner() {}\n",
        );
        let lines: Vec<usize> = public_items(&file)
            .iter()
            .map(|finding| finding.line)
            .collect();
        assert_eq!(lines, [1, 2, 5, 6]);
    }

    #[test]
    fn documented_and_test_items_pass() {
        let file = sample(
            "a/src/lib.rs",
            "/// Does it.\npub fn f() {}\n#[cfg(test)]\nmod tests {\n pub fn g() {}\n}\n",
        );
        assert!(public_items(&file).is_empty());
        assert_eq!(documented(&file), (1, 1));
    }
}

//! The checks on the function and the code that is written in its place.
//!
//! The user's function moves, unchanged, into one of the same name and signature; what was refused
//! is written out as well, beside the error, so that one mistake gives one message.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{ItemFn, ReturnType, Safety, Signature};

use crate::attribute::Attribute;
use crate::options::Options;

/// Expands `attribute(options) item`.
pub fn expand(attribute: Attribute, options: TokenStream, item: TokenStream) -> TokenStream {
    let function: ItemFn = match syn::parse2(item.clone()) {
        Ok(function) => function,
        Err(error) => {
            let error = error.into_compile_error();
            return quote!(#error #item);
        }
    };
    match check(attribute, &function).and_then(|()| syn::parse2::<Options>(options)) {
        Ok(options) => write(attribute, &options, function),
        Err(error) => refused(&error, function),
    }
}

/// Whether the function has a shape that can run as a main fiber without arguments.
fn check(attribute: Attribute, function: &ItemFn) -> syn::Result<()> {
    let (name, sig) = (attribute.name(), &function.sig);
    let refuse = |at: proc_macro2::Span, message: String| Err(syn::Error::new(at, message));
    if let Some(token) = &sig.asyncness {
        return refuse(
            token.span(),
            format!(
                "{name} takes a plain `fn`: remove `async`; a fiber waits by calling, so \
                 `stream.read(&mut buf)?` needs no `.await`"
            ),
        );
    }
    if let Some(token) = &sig.constness {
        return refuse(token.span(), format!("{name} takes a plain `fn`: remove `const`"));
    }
    if !matches!(sig.safety, Safety::Default) {
        let message = format!("{name} takes a safe `fn`: put the `unsafe` inside");
        return refuse(sig.safety.span(), message);
    }
    if let Some(abi) = &sig.abi {
        return refuse(abi.span(), format!("{name} takes a plain `fn`: remove `extern`"));
    }
    if !sig.generics.params.is_empty() {
        let message = format!("{name} takes a function without generic parameters");
        return refuse(sig.generics.span(), message);
    }
    if !sig.inputs.is_empty() {
        return refuse(
            sig.inputs.span(),
            match attribute {
                Attribute::Main => "`main` takes no arguments: read them from `std::env::args()`",
                Attribute::Test => "a test takes no arguments",
            }
            .to_owned(),
        );
    }
    check_place(attribute, function)
}

/// Whether the attribute stands where it belongs.
fn check_place(attribute: Attribute, function: &ItemFn) -> syn::Result<()> {
    match attribute {
        Attribute::Main if function.sig.ident != "main" => Err(syn::Error::new(
            function.sig.ident.span(),
            "#[fibra::main] is for `fn main`; to run another function on a runtime, call \
             `fibra::run`",
        )),
        Attribute::Test => {
            match function.attrs.iter().find(|attribute| attribute.path().is_ident("test")) {
                Some(test) => Err(syn::Error::new(
                    test.span(),
                    "remove `#[test]`: `#[fibra::test]` already makes this a test",
                )),
                None => Ok(()),
            }
        }
        Attribute::Main => Ok(()),
    }
}

/// The function that takes the place of the user's.
fn write(attribute: Attribute, options: &Options, function: ItemFn) -> TokenStream {
    let ItemFn { attrs, vis, sig, block, .. } = function;
    let Signature { ident, output, .. } = &sig;
    // Points type errors ("`T` is not `Termination`") at the return type and not at the attribute.
    let at = match output {
        ReturnType::Default => ident.span(),
        ReturnType::Type(_, ty) => ty.span(),
    };
    let (head, call) = match (attribute, output) {
        (Attribute::Main, _) => (
            quote!(#(#attrs)* #vis fn #ident() -> ::std::process::ExitCode),
            quote_spanned!(at=> ::fibra::__private::main(#options, #ident)),
        ),
        // `#[should_panic]` wants a test that returns nothing to be one.
        (Attribute::Test, ReturnType::Default) => (
            quote!(#[::core::prelude::v1::test] #(#attrs)* #vis fn #ident()),
            quote_spanned!(at=> ::fibra::__private::test(#options, #ident)),
        ),
        (Attribute::Test, ReturnType::Type(..)) => (
            quote! {
                #[::core::prelude::v1::test] #(#attrs)*
                #vis fn #ident() -> ::std::process::ExitCode
            },
            quote_spanned!(at=> ::fibra::__private::test_result(#options, #ident)),
        ),
    };
    quote! { #head { #sig #block #call } }
}

/// The error, and a function of that name: "`main` function not found" would only distract.
fn refused(error: &syn::Error, function: ItemFn) -> TokenStream {
    let error = error.to_compile_error();
    let ItemFn { vis, sig: Signature { ident, .. }, .. } = function;
    quote! { #error #vis fn #ident() {} }
}

#[cfg(test)]
#[path = "expand_tests.rs"]
mod tests;

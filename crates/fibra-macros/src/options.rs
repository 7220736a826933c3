//! What stands in the parentheses: `workers = 2, driver = "epoll", io = "dedicated"`.
//!
//! Promise: every mistake that can be seen in the tokens is an error at its own place: a word we do
//! not know, the same word twice, a driver that does not exist, zero workers.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::parse::{Parse, ParseStream};
use syn::{Expr, ExprLit, Ident, Lit, LitStr, Token};

/// The options of an attribute, each at most once.
#[derive(Default)]
pub struct Options {
    workers: Option<Expr>,
    driver: Option<TokenStream>,
    io: Option<TokenStream>,
    stack_size: Option<Expr>,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut options = Self::default();
        while !input.is_empty() {
            let name: Ident = input.parse()?;
            input.parse::<Token![=]>()?;
            match name.to_string().as_str() {
                "workers" => set(&mut options.workers, &name, positive(input.parse()?)?)?,
                "driver" => set(&mut options.driver, &name, driver(&input.parse()?)?)?,
                "io" => set(&mut options.io, &name, io(&input.parse()?)?)?,
                "stack_size" => set(&mut options.stack_size, &name, positive(input.parse()?)?)?,
                other => {
                    let message = format!(
                        "unknown option `{other}`: expected `workers`, `driver`, `io` or \
                         `stack_size`"
                    );
                    return Err(syn::Error::new(name.span(), message));
                }
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(options)
    }
}

impl ToTokens for Options {
    fn to_tokens(&self, out: &mut TokenStream) {
        let workers = optional(self.workers.as_ref());
        let driver = optional(self.driver.as_ref());
        let io = optional(self.io.as_ref());
        let stack_size = optional(self.stack_size.as_ref());
        out.extend(quote! {
            ::fibra::__private::Options {
                workers: #workers,
                driver: #driver,
                io: #io,
                stack_size: #stack_size,
            }
        });
    }
}

fn set<T>(slot: &mut Option<T>, name: &Ident, value: T) -> syn::Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(syn::Error::new(name.span(), format!("`{name}` is given twice"))),
    }
}

/// Any expression but the literal 0, which would be refused at run time anyway.
fn positive(value: Expr) -> syn::Result<Expr> {
    if let Expr::Lit(ExprLit { lit: Lit::Int(number), .. }) = &value
        && number.base10_parse::<usize>().is_ok_and(|number| number == 0)
    {
        return Err(syn::Error::new(number.span(), "this must be at least 1"));
    }
    Ok(value)
}

fn driver(name: &LitStr) -> syn::Result<TokenStream> {
    let kind = match name.value().as_str() {
        "auto" => return Ok(quote!(::fibra::driver::Choice::Auto)),
        "uring" => quote!(Uring),
        "epoll" => quote!(Epoll),
        "poll" => quote!(Poll),
        "select" => quote!(Select),
        other => {
            let message = format!(
                "unknown driver `{other}`: expected \"auto\", \"uring\", \"epoll\", \"poll\" or \
                 \"select\""
            );
            return Err(syn::Error::new(name.span(), message));
        }
    };
    Ok(quote!(::fibra::driver::Choice::Named(::fibra::driver::BackendKind::#kind)))
}

fn io(name: &LitStr) -> syn::Result<TokenStream> {
    match name.value().as_str() {
        "per-worker" => Ok(quote!(::fibra::IoMode::PerWorker)),
        "dedicated" => Ok(quote!(::fibra::IoMode::Dedicated)),
        other => {
            let message =
                format!("unknown io mode `{other}`: expected \"per-worker\" or \"dedicated\"");
            Err(syn::Error::new(name.span(), message))
        }
    }
}

fn optional(value: Option<&impl ToTokens>) -> TokenStream {
    match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    }
}

// Package identity finds out who asks, and gives out the tokens by which service accounts tell.
//
// # Who asks
//
// Authenticators look at a request one after the other: client certificates, bearer tokens (in the header Authorization, or in
// a WebSocket's subprotocol), then nobody, who is system:anonymous. Each answers with a user, with nothing (not mine), or with
// an error. The first user is it; errors count if there was none, so that a wrong token is refused and does not become
// anonymous. Bearer tokens are tried by several TokenAuthenticators in the same way:
//
//   - ServiceAccounts: JSON web tokens that a Keyring signed.
//   - Bootstrap: "<id>.<secret>", kept in secrets, for machines that join.
//   - Static: a fixed table.
//
// Who was authenticated is a member of system:authenticated. He may then ask to be somebody else by the headers Impersonate-*,
// if an Authorizer allows it: see Impersonator.
//
// # Service account tokens
//
// A token says in its claims who it is for (the service account's name and UID), until when it is valid, for which audiences,
// and what it is bound to: a pod (with its node), a secret or a node. It is void once one of these is gone, or another has
// its name: names and UIDs are looked up each time a token is used. Only the verification of the signature is remembered, by a
// hash of the token, for a bounded number of tokens; a change of the keys forgets it. Older tokens that live in a secret, with
// the issuer "kubernetes/serviceaccount" and without an end, are understood, too.
//
// Keys are known by a hash of the public key. A Keyring signs with one and verifies with several, so keys can be rotated: add
// the new one to those that verify, sign with it once everyone has seen it, and drop the old one when its tokens have expired.
// Discovery publishes the public keys as OpenID Connect's discovery wants it.
//
// # Concurrency
//
// All values are used by many requests at once. A User is shared by requests and never changed.
package identity

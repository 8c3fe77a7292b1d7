// Package jointoken knows the tokens by which machines join a cluster, and how a machine that has nothing but a token finds out that it
// talks to the right cluster. It speaks the same language as kubeadm.
//
// # Tokens
//
// A token is "<id>.<secret>", of 6 and 16 lower-case letters and digits. It is kept in a Secret of the type bootstrap.kubernetes.io/token
// with the name bootstrap-token-<id> in kube-system. The id is no secret.
//
// # Discovery
//
// The ConfigMap cluster-info in kube-public, which anybody may read, has a kubeconfig with the cluster's authority and the address of
// its API server, and for each token a signature of it: a JSON web signature (RFC 7515) without its content, by HMAC-SHA256 with the
// token's secret. Who has a token can tell that somebody who has it too wrote the ConfigMap. Since every node has had a token, a Pin says
// besides which authority it is to be: the SHA-256 of its public key (its SubjectPublicKeyInfo, RFC 7469).
//
// # Concurrency
//
// Everything here is a value or a pure function.
package jointoken

// Package openapi describes the API in OpenAPI's versions 2 and 3, for kubectl explain, for clients that check what they
// send, and for server-side apply.
//
// # Where schemas come from
//
// The module k8s.io/api has no OpenAPI definitions, but all that they are made of: struct tags, names and docs generated
// into methods, and, in client-go, the schema of the apply configurations with the list types, keys and defaults. Schemas
// are made of these by reflection. Package metav1, autoscaling/v1 and what extends the API have definitions in
// k8s.io/apiextensions-apiserver and k8s.io/kube-aggregator, which are taken as they are. What only comments say is in
// required.txt and enums.txt. Custom resources bring their own schemas.
//
// Definitions and paths are made in the form of version 2, which is then converted to version 3: that is what
// k8s.io/kube-openapi has a function for.
//
// # Documents
//
// There is one document of version 3 for each group and version, and one of version 2 for all. A document is made when it
// is first asked for, and kept compressed. Its hash is that of its bytes: it is the ETag, and part of the URL in the index,
// so that clients ask for a document once in its life. The index needs all hashes, so it makes all documents.
//
// # Concurrency
//
// A Handler serves requests at the same time. A mutex of each document makes it be made once; one of the Handler covers the
// set of documents, which changes with the custom resources.
package openapi

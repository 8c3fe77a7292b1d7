// Package openapi describes the API in OpenAPI's versions 2 and 3, for kubectl explain, for clients that check what they
// send, and for server-side apply.
//
// # Where schemas come from
//
// The module k8s.io/api has no OpenAPI definitions, but all that they are made of: struct tags, names and docs generated
// into methods, and, in client-go, the schema of the apply configurations with the list types, keys and defaults. Schemas
// are made of these by reflection. Package metav1, autoscaling/v1 and custom resource definitions have definitions in
// k8s.io/apiextensions-apiserver, which are taken as they are. What is left is in required.txt.
package openapi

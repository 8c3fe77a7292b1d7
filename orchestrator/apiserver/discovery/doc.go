// Package discovery tells clients which groups, versions and resources the API server has.
//
// A Handler is made from the kinds and holds two trees of the same facts: one document per path (/api, /apis, /api/v1,
// /apis/<group>, /apis/<group>/<version>), and the aggregated one, in which /api and /apis hold everything below them, for
// clients that accept an APIGroupDiscoveryList.
//
// Groups are in the order of their priorities, which decides what a short name means: those of Kubernetes, unless an APIService
// says otherwise; custom resources follow by name. Versions are in the order of their priorities, then of their names: v2, v1,
// v1beta1, v1alpha1. The first is the preferred one.
//
// Every answer has an ETag that is a hash of its bytes. Answers are encoded anew for every request: that takes less than a
// millisecond, clients keep what they got, and nothing is held in memory.
//
// # Concurrency
//
// A Handler is never changed. When kinds come or go, a new one is made.
package discovery

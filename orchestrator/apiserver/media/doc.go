// Package media is the forms in which the API is spoken: JSON, YAML, protobuf and CBOR; whole objects, their metadata
// alone, and tables.
//
// # Model
//
// An object's encoded form is made once and kept by its objectstore.Item; answers are put together from such forms:
//
//	JSON      an object as {"kind":...,"apiVersion":...,"metadata":...}; a list has the same bytes without the type
//	protobuf  "k8s\0" and a runtime.Unknown around the object's message; a list is field 1 metadata, field 2 messages
//	CBOR      self-described; a list is a map of four entries
//	YAML      made from JSON each time
//
// Tables and metadata are made for each request: ages change, and few ask for them.
//
// # Concurrency
//
// Functions may be called from everywhere. A Format belongs to one request.
package media

// Package wire is what the shipper and the receiver say to each other over
// HTTPS: header fields, JSON bodies, paths and media types. It holds no
// behaviour of either side.
//
// The upload follows draft-ietf-httpbis-resumable-upload (text of 2026-07,
// interop version 8); header fields are structured fields (RFC 9651), errors
// are problem details (RFC 9457).
package wire

// Paths of the receiver's network listener.
const (
	PathEpisodes = "/v1/episodes"
	PathUploads  = "/v1/uploads/" // followed by the token
	PathSelf     = "/v1/hosts/self"
	PathAudit    = "/v1/hosts/self/audit"
	PathReport   = "/v1/hosts/self/report"
	PathHealth   = "/healthz"
)

// Header fields. The Upload-* fields are the draft's, the others ours.
const (
	HeaderEpisode        = "Cis490-Episode" // request: the announcement
	HeaderHeld           = "Cis490-Held"    // response: whole frames held
	HeaderWindow         = "Cis490-Window"  // every response: id of the receiver's window
	HeaderCode           = "Cis490-Code"    // response: our code, where a HEAD answer can have no body
	HeaderDetail         = "Cis490-Detail"  // response: its detail
	HeaderUploadComplete = "Upload-Complete"
	HeaderUploadOffset   = "Upload-Offset"
	HeaderUploadLength   = "Upload-Length"
	HeaderUploadLimit    = "Upload-Limit"
	HeaderInterop        = "Upload-Draft-Interop-Version"
)

// InteropVersion is the draft's version that both sides speak.
const InteropVersion = "8"

// StatusUploadResumption is the interim status 104 of the draft, section
// "Status Code 104".
const StatusUploadResumption = 104

// Media types.
const (
	MediaEpisode = "application/zstd"           // RFC 8878, section 6.1
	MediaPartial = "application/partial-upload" // the draft's, for appends
	MediaProblem = "application/problem+json"   // RFC 9457
	MediaJSON    = "application/json"
)

// Problem types that the draft registers.
const (
	TypeMismatchingOffset  = "https://iana.org/assignments/http-problem-types#mismatching-upload-offset"
	TypeInconsistentLength = "https://iana.org/assignments/http-problem-types#inconsistent-upload-length"
)

package wire

import (
	"fmt"
	"io"

	"cis490/src/bag"
	"cis490/src/episode"
)

// MaxAudit is the most receipts that one audit can ask about.
const MaxAudit = 1000

// MaxAuditBody is the most bytes of the body of an audit, which has some 150 for
// each receipt.
const MaxAuditBody = 256 << 10

// maxAuditAnswer is the same of its answer.
const maxAuditAnswer = 4 << 20

// Audit is the body of POST /v1/hosts/self/audit: a host asks what has become of
// episodes that it has receipts for.
type Audit struct {
	Receipts []Acknowledged `json:"receipts"`
}

// Acknowledged is what a receipt says was stored.
type Acknowledged struct {
	Episode   episode.ID `json:"episode"`
	BagDigest bag.Digest `json:"bag_digest"`
}

// Verdict is what an audit says of an episode.
type Verdict string

// The verdicts.
const (
	VerdictStored  Verdict = "stored"
	VerdictMissing Verdict = "missing" // the receiver has no episode of this host under that id
	VerdictDiffers Verdict = "differs" // it has one with another digest
	VerdictDamaged Verdict = "damaged" // its copy was found damaged
)

// Audited is the answer to an audit: of each episode, in the order in which they
// were asked about.
type Audited struct {
	Episodes []AuditedEpisode `json:"episodes"`
}

// AuditedEpisode is what the receiver says of one episode.
type AuditedEpisode struct {
	Episode episode.ID `json:"episode"`
	Verdict Verdict    `json:"verdict"`
	Detail  string     `json:"detail,omitempty"`  // of damage
	Receipt *Receipt   `json:"receipt,omitempty"` // the receiver's, where it has one
}

// ReadAudit reads the body of an audit. Its error is for whoever sent it.
func ReadAudit(r io.Reader) (a Audit, err error) {
	if err := readJSON(r, MaxAuditBody, &a); err != nil {
		return a, err
	}
	switch n := len(a.Receipts); {
	case n == 0:
		return a, fmt.Errorf("it has no receipts")
	case n > MaxAudit:
		return a, fmt.Errorf("it has %d receipts, more than %d", n, MaxAudit)
	}
	for i, r := range a.Receipts {
		if r.Episode.IsZero() || r.BagDigest == (bag.Digest{}) {
			return a, fmt.Errorf("receipt %d has no episode or no bag_digest", i+1)
		}
	}
	return a, nil
}

// ReadAudited reads the answer, and says if it is not one to these receipts.
func ReadAudited(r io.Reader, asked []Acknowledged) ([]AuditedEpisode, error) {
	var a Audited
	if err := readJSON(r, maxAuditAnswer, &a); err != nil {
		return nil, err
	}
	if len(a.Episodes) != len(asked) {
		return nil, fmt.Errorf("%d verdicts on %d receipts", len(a.Episodes), len(asked))
	}
	for i, e := range a.Episodes {
		if e.Episode != asked[i].Episode || e.Verdict == "" {
			return nil, fmt.Errorf("verdict %d is on episode %s, not %s", i+1, e.Episode, asked[i].Episode)
		}
	}
	return a.Episodes, nil
}

package invitation

import (
	"errors"
	"fmt"
	"time"

	"github.com/phantommesh/phantommesh/crypto/certificate"
	"github.com/phantommesh/phantommesh/crypto/identity"
	"github.com/phantommesh/phantommesh/internal/wire"
)

// requestContext keeps a request's signature from being taken for another.
const requestContext = "phantommesh enrolment request v1"

// RequestMax bounds an encoded request in bytes: keys 2,016, signature 3,373, and some hundred.
const RequestMax = 8 << 10

var (
	// ErrRequest: bytes that are no request, or one that its own keys have not signed.
	ErrRequest = errors.New("invitation: malformed enrolment request")
)

// Request asks a mesh to admit an identity. It is signed by that identity, so whoever passes it on can change nothing in it.
type Request struct {
	Mesh       identity.MeshID
	Public     identity.Public
	Name       string // wanted; the mesh may choose another when it is taken
	Region     string // wanted, may be empty
	Invitation string // ID of the token; empty when somebody has to approve
	Proof      [32]byte
	Time       time.Time // of the joiner's clock
}

type requestBody struct {
	_          struct{} `cbor:",toarray"`
	Mesh       [32]byte
	Public     []byte
	Name       string
	Region     string
	Invitation string
	Proof      [32]byte
	Time       int64
}

type signedRequest struct {
	_         struct{} `cbor:",toarray"`
	Body      []byte
	Signature []byte
}

// SignRequest signs a request with the identity that wants in.
func SignRequest(key *identity.Key, r Request) ([]byte, error) {
	r.Public = *key.Public()
	if err := r.check(); err != nil {
		return nil, err
	}
	pub, err := r.Public.MarshalBinary()
	if err != nil {
		return nil, err
	}
	body, err := wire.Marshal(requestBody{Mesh: r.Mesh, Public: pub, Name: r.Name, Region: r.Region, Invitation: r.Invitation, Proof: r.Proof,
		Time: r.Time.Unix()})
	if err != nil {
		return nil, err
	}
	sig, err := key.Sign(requestContext, body)
	if err != nil {
		return nil, err
	}
	return wire.Marshal(signedRequest{Body: body, Signature: sig})
}

// ParseRequest reads a request and checks that the identity in it signed it, with both algorithms.
func ParseRequest(raw []byte) (*Request, error) {
	if len(raw) > RequestMax {
		return nil, fmt.Errorf("%w: %d bytes", ErrRequest, len(raw))
	}
	var s signedRequest
	if err := wire.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	var b requestBody
	if err := wire.Unmarshal(s.Body, &b); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	r := &Request{Mesh: b.Mesh, Name: b.Name, Region: b.Region, Invitation: b.Invitation, Proof: b.Proof, Time: time.Unix(b.Time, 0).UTC()}
	if err := r.Public.UnmarshalBinary(b.Public); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	if err := r.Public.Verify(requestContext, s.Body, s.Signature); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return r, nil
}

func (r *Request) check() error {
	if err := certificate.CheckLabel(r.Name); err != nil {
		return fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if r.Region != "" {
		if err := certificate.CheckLabel(r.Region); err != nil {
			return fmt.Errorf("%w: region: %w", ErrRequest, err)
		}
	}
	if r.Invitation != "" && len(r.Invitation) != idTextSize {
		return fmt.Errorf("%w: invitation ID of %d characters", ErrRequest, len(r.Invitation))
	}
	return nil
}

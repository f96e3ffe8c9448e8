package identity

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/phantommesh/phantommesh/internal/vector"
)

// TestPrivateKeysNeverShow prints keys in every way that a careless line of code could and looks for their bytes.
func TestPrivateKeysNeverShow(t *testing.T) {
	k := testKey(t, "a")
	root, err := GenerateRoot(vector.Rand("root"))
	if err != nil {
		t.Fatal(err)
	}
	nodeSecret, _ := k.MarshalBinary()
	rootSecret, _ := root.MarshalBinary()
	holder := struct {
		Key  *Key
		Root *RootKey
	}{k, root}

	var out strings.Builder
	for _, v := range []any{k, *k, root, *root, holder, &holder, []*Key{k}, fmt.Errorf("with %v and %+v", k, root)} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("log", "key", k, "root", root, "holder", holder)
	}
	if b, err := json.Marshal(holder); err == nil {
		out.Write(b)
	}
	shown := strings.ToLower(out.String())
	for _, secret := range [][]byte{nodeSecret[:32], nodeSecret[32:64], nodeSecret[64:], rootSecret[:32], rootSecret[32:]} {
		part := secret[:8]
		decimal := strings.Trim(fmt.Sprint(part), "[]")
		for _, form := range []string{
			hex.EncodeToString(part), decimal, strings.ReplaceAll(decimal, " ", ", "), base64.StdEncoding.EncodeToString(part)[:10],
			strings.Trim(strings.ReplaceAll(fmt.Sprintf("%#v", part), "[]byte", ""), "{}"),
		} {
			if strings.Contains(shown, strings.ToLower(form)) {
				t.Errorf("the secret shows as %s", form)
			}
		}
	}
}

package config

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestStateFolderFollowsTheUser(t *testing.T) {
	for _, tt := range []struct {
		name string
		uid  int
		env  map[string]string
		want string
	}{
		{"root", 0, map[string]string{"XDG_STATE_HOME": "/x", "HOME": "/root"}, "/var/lib/phantommesh"},
		{"user", 1000, map[string]string{"HOME": "/home/ann"}, "/home/ann/.local/state/phantommesh"},
		{"xdg", 1000, map[string]string{"XDG_STATE_HOME": "/x", "HOME": "/home/ann"}, "/x/phantommesh"},
		{"relative xdg is ignored", 1000, map[string]string{"XDG_STATE_HOME": "x", "HOME": "/home/ann"}, "/home/ann/.local/state/phantommesh"},
		{"no home", 1000, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := defaultState(tt.uid, func(k string) string { return tt.env[k] }); got != tt.want {
				t.Errorf("state folder %q, want %q", got, tt.want)
			}
		})
	}
}

func TestFlagsWinOverEnvironmentOverSavedOverFile(t *testing.T) {
	file, err := Parse("f.yaml", []byte("port: 1\nname: file\nregion: file\ntiming: wan\nlisten: [192.0.2.1, '2001:db8::1']\n"))
	if err != nil {
		t.Fatal(err)
	}
	saved, err := Parse("s.yaml", []byte("port: 2\nname: saved\nregion: saved\n"))
	if err != nil {
		t.Fatal(err)
	}
	env := Environment(func(k string) string { return map[string]string{"PHANTOM_PORT": "3", "PHANTOM_NAME": "env"}[k] })
	port, _ := Lookup("port")
	flags := Layer{"port": port.Flag([]string{"4"})}
	s, err := Resolve(Defaults(), flags, env, saved, file)
	if err != nil {
		t.Fatal(err)
	}
	if s.Port != 4 || s.Name != "env" || s.Region != "saved" || s.Timing != WAN {
		t.Errorf("port %d name %s region %s timing %s", s.Port, s.Name, s.Region, s.Timing)
	}
	if want := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}; !reflect.DeepEqual(s.Listen, want) {
		t.Errorf("listen %v, want %v", s.Listen, want)
	}
	if s.MTU != 0 || s.IPv4.String() != "10.86.0.0/16" {
		t.Errorf("defaults did not stay: %+v", s)
	}
}

func TestEveryKeyHasFlagVariableAndFileForm(t *testing.T) {
	values := map[string]string{
		"state": "/s", "log-level": "warn", "name": "nas", "region": "home", "port": "0", "listen": "127.0.0.1", "bootstrap": "a.example:51820",
		"no-lan": "true", "no-dht": "true", "timing": "wan", "tun": "userspace", "mtu": "1400", "socks5": "127.0.0.1:1080", "http-proxy": "127.0.0.1:3128",
		"forward": "80=127.0.0.1:8080", "ipv4": "10.9.0.0/16", "metrics": "127.0.0.1:9090", "web": "127.0.0.1:8086",
		"no-relay": "true", "relay-rate": "12.5", "stun": "stun.example:3478", "advertise": "198.51.100.7:51820", "no-port-mapping": "true",
	}
	for _, k := range Keys {
		v, ok := values[k.Name]
		if !ok {
			t.Fatalf("no example for %s", k.Name)
		}
		file, err := Parse("f", []byte(k.Name+": "+v+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		env := Environment(func(name string) string {
			if name == k.Env() {
				return v
			}
			return ""
		})
		for where, l := range map[string]Layer{"file": file, "environment": env, "flag": {k.Name: k.Flag([]string{v})}} {
			s, err := Resolve(Settings{}, l)
			if err != nil {
				t.Errorf("%s by %s: %v", k.Name, where, err)
			}
			if k.Name != "port" && reflect.DeepEqual(s, Settings{}) {
				t.Errorf("%s by %s changed nothing", k.Name, where)
			}
		}
	}
}

func TestBadValuesNameKeyValueAndPlace(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"port: 70000", `f.yaml line 1: bad value "70000" for port: use a number from 0 to 65535`},
		{"port: -1", "use a number"},
		{"port: [1, 2]", "takes one value, not a list"},
		{"port: {a: 1}", "takes a plain value"},
		{"name: ../x", "use letters, digits and hyphens"},
		{"name: -x", "hyphen"},
		{"\n\nname: " + strings.Repeat("x", 64), "line 3: bad value"},
		{"listen: [1.2.3.4:5]", "is no IP address"},
		{"bootstrap: example.org", "is not host:port"},
		{"bootstrap: example.org:0", "has no port"},
		{"bootstrap: :51820", "has no host"},
		{"forward: 80", "is not PORT=HOST:PORT"},
		{"forward: [80=a:1, 80=b:2]", "forwarded twice"},
		{"mtu: 1279", "from 1280 to 9000"},
		{"timing: slow", "use lan or wan"},
		{"log-level: loud", "use debug"},
		{"tun: waytoolongadevicename", "15 at most"},
		{"tun: a/b", "not a name"},
		{"ipv4: fd00::/8", "IPv4 range"},
		{"ipv4: 10.0.0.0/30", "IPv4 range"},
		{"ipv4: 8.8.0.0/16", "private IPv4 range"},
		{"ipv4: 172.0.0.0/8", "private IPv4 range"},
		{"no-lan: perhaps", "use true or false"},
		{"no-relay: perhaps", "use true or false"},
		{"relay-rate: 0", "--no-relay to carry nothing"},
		{"relay-rate: NaN", "use a number of Mbit/s"},
		{"relay-rate: fast", "use a number of Mbit/s"},
		{"stun: stun.example", "is not host:port"},
		{"advertise: 127.0.0.1:51820", "no address and port that others could reach"},
		{"advertise: 198.51.100.7", "no address and port that others could reach"},
		{"advertise: 'home.example:51820'", "no address and port that others could reach"},
		{"listen: [" + strings.Repeat("127.0.0.1, ", 65) + "127.0.0.1]", "too many"},
	} {
		l, err := Parse("f.yaml", []byte(tt.text))
		if err == nil {
			_, err = Resolve(Settings{}, l)
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: error %v, want it to say %q", tt.text, err, tt.want)
		}
	}
}

func TestUnknownKeysNameTheLineAndTheNearestKey(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"port: 1\nregoin: home\n", `f.yaml line 2: unknown key "regoin"; did you mean "region"?`},
		{"no_lan: true", `did you mean "no-lan"?`},
		{"http_proxi: x", `did you mean "http-proxy"?`},
		{"completely-different: 1", "known keys: state, log-level"},
		{"port: 1\nport: 2", "line 2: key port is given twice"},
		{"- port", "want key: value lines"},
		{"port: 1\n---\nport: 2", "second document"},
		{"a: &a 1\nport: *a", "unknown key"},
		{"port: &a 1\nmtu: *a", "plain value"},
		{"port: [", "f.yaml: "},
		{"? [a, b]\n: 1", "unknown key"},
	} {
		if _, err := Parse("f.yaml", []byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: error %v, want it to say %q", tt.text, err, tt.want)
		}
	}
}

func TestEmptyFilesAreFine(t *testing.T) {
	for _, text := range []string{"", "\n", "# only a comment\n", "---\n", "null"} {
		if l, err := Parse("f", []byte(text)); err != nil || len(l) != 0 {
			t.Errorf("%q: %v %v", text, l, err)
		}
	}
}

func TestSavedSettingsSurviveAndCanBeForgotten(t *testing.T) {
	name := filepath.Join(t.TempDir(), "settings.yaml")
	if l, err := ReadSaved(name); err != nil || len(l) != 0 {
		t.Fatalf("none yet: %v %v", l, err)
	}
	first := Layer{
		"name": {Words: []string{"true"}}, "port": {Words: []string{"0"}}, "state": {Words: []string{"/x"}},
		"listen": {Words: []string{"127.0.0.1", "::1"}}, "no-lan": {Words: []string{"true"}}, "bootstrap": {},
	}
	if err := WriteSaved(name, first); err != nil {
		t.Fatal(err)
	}
	if fi, _ := os.Stat(name); fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", fi.Mode())
	}
	read, err := ReadSaved(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := read["state"]; ok {
		t.Error("the state folder must not be remembered in itself")
	}
	if !read.Equal(first) {
		t.Errorf("read back %v", read)
	}
	s, err := Resolve(Settings{}, read)
	if err != nil || s.Name != "true" || len(s.Listen) != 2 || !s.NoLAN {
		t.Errorf("%+v %v", s, err)
	}
	forgotten := read.With(Layer{"name": {Words: []string{""}}, "mtu": {Words: []string{"1400"}}})
	if _, ok := forgotten["name"]; ok || forgotten["mtu"].Words[0] != "1400" || forgotten.Equal(read) {
		t.Errorf("after --name= --mtu 1400: %v", forgotten)
	}
}

func TestAnEmptyFlagMeansTheDefault(t *testing.T) {
	file, _ := Parse("f", []byte("region: far\nbootstrap: a:1"))
	s, err := Resolve(Defaults(), Layer{"region": {Words: []string{""}}, "bootstrap": {}}, file)
	if err != nil || s.Region != "" || s.Bootstrap != nil {
		t.Errorf("%+v %v", s, err)
	}
}

func TestFilesThatCannotBeReadSayWhich(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadFile(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), filepath.Join(dir, "none")) {
		t.Errorf("missing: %v", err)
	}
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, fileMax+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(big); err == nil || !strings.Contains(err.Error(), "64 KiB") {
		t.Errorf("big: %v", err)
	}
	if _, err := ReadFile(dir); err == nil {
		t.Error("a folder was read as a file")
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "port: 1", "listen: [1.2.3.4]", "a: &a [*a]", "forward: 80=a:1,81=b:2", "- x", "? {a: b}\n: c", "name: !!binary aGk="} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := Parse("f", text)
		if err != nil {
			return
		}
		if _, err := Resolve(Settings{}, l); err != nil {
			return
		}
		// What was understood can be saved and is understood the same way.
		out, err := Format(l)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("saved", out)
		if err != nil {
			t.Fatalf("%v in %q from %q", err, out, text)
		}
		if !again.Equal(l) {
			t.Fatalf("saved %q reads back differently", out)
		}
	})
}

"""What stands below the help of the program and of its subcommands: examples, and exit codes that are not obvious."""

from __future__ import annotations

NOT_FOUND = "  66  there is no such execution\n"
AWAY = "  69  the store, or the server, cannot be reached\n"
UNSUITABLE = "  76  the store has no functions, or a library of another version\n"
ACCESS = "  77  it refuses the password, the token or the certificate\n"
STORE = AWAY + ACCESS

NO_WORKER = f"""\
  66  there is no such worker
{STORE}\
  83  with --wait: it has not done so in time
"""

# By subcommand; the program's own under the empty name. What follows two spaces or more is no part of an example.
EXAMPLES = {
    "": """\
examples:
  ffsuper dev jobs.py                     try handlers out, changes included
  ffsuper --config worker.toml            run the worker until SIGTERM, then drain
  ffsuper submit thumbnail '{"url": "a.png"}' --wait 10
  ffsuper COMMAND --help                  more examples, and exit codes

Where executions are: --store URL, --config FILE, --server URL, or $FFSUPER_STORE_URL.
All exit codes, variables and files: man ffsuper, docs/operations.md.
""",
    "dev": f"""\
examples:
  ffsuper dev jobs.py                     handlers in a file
  ffsuper dev app.jobs app.reports        modules, imported from the current folder
  ffsuper dev --config worker.toml        with lanes, limits and a store of your own

exit codes:
{STORE}\
  78  the configuration is wrong
""",
    "engine": f"""\
examples:
  ffsuper engine --config /etc/ffsuper/engine.toml
  FFSUPER_STORE_URL=redis://db ffsuper engine --config engine.toml

exit codes:
  0   stopped by SIGTERM or SIGINT
{AWAY}{UNSUITABLE}{ACCESS}\
  78  the configuration is wrong
""",
    "server": f"""\
examples:
  ffsuper server --config /etc/ffsuper/server.toml
  FFSUPER_SERVER_LISTEN=127.0.0.1:8080 ffsuper server --config server.toml

exit codes:
  0   stopped by SIGTERM or SIGINT
{AWAY}{UNSUITABLE}{ACCESS}\
  78  the configuration is wrong, or the extra is missing: pip install 'ffsuper[server]'
""",
    "check": f"""\
examples:
  ffsuper check --config worker.toml      every setting, and where it comes from; what is wrong with it
  ffsuper check --config worker.toml --unit systemd/ffsuper.service
  ffsuper check --config worker.toml --offline --json

exit codes of the first problem; every other is told as well:
  0   there is none, though there may be warnings
{AWAY}{UNSUITABLE}{ACCESS}\
  78  the configuration or the handlers are wrong, a port is in use, or a unit cuts the drain short
  82  no child with the handlers comes up
""",
    "submit": f"""\
examples:
  ffsuper submit thumbnail '{{"url": "a.png"}}'
  ffsuper submit thumbnail '{{"url": "a.png"}}' --wait 60 > result.json
  ffsuper submit import @data.csv --lane bulk --delay 3600 --tag customer=7
  ffsuper submit pay --idempotency-key order-7 --policy '{{"retry_policy": {{"max_retries": 3}}}}'

exit codes:
  0   submitted; with --wait: completed, and the result is written
  65  payload, tag, policy or lane is not acceptable
{STORE}\
  83  with --wait: it ended otherwise, or not in time
""",
    "show": f"""\
examples:
  ffsuper show "$id"
  ffsuper show "$id" --json | jq .record.failure_reason
  ffsuper show "$id" --server https://ff.example.org

exit codes:
{NOT_FOUND}{STORE}""",
    "list": f"""\
examples:
  ffsuper list                            what waits for a worker in lane "default"
  ffsuper list --lane bulk --state active --limit 100
  ffsuper list --state terminal --json | jq -r '.[].id'

exit codes:
{STORE}""",
    "result": f"""\
examples:
  ffsuper result "$id" > thumbnail.png
  ffsuper result "$id" --wait 60

exit codes:
  0   it completed, and its result is written
{NOT_FOUND}{STORE}\
  83  it ended otherwise, or has not ended
""",
    "tail": f"""\
examples:
  ffsuper tail "$id"                      until the execution ends
  ffsuper tail "$id" --no-follow --json

exit codes:
  0   it completed; with --no-follow: what there is was written
{NOT_FOUND}{STORE}\
  83  it ended otherwise
""",
    "signal": f"""\
examples:
  ffsuper signal "$id" approved '{{"by": "ann"}}'
  ffsuper signal "$id" approved --token-file token --source ann
  ffsuper signal "$id" paid --idempotency-key invoice-7

exit codes:
  65  it waits for nothing, or the token is wrong
{NOT_FOUND}{STORE}""",
    "cancel": f"""\
examples:
  ffsuper cancel "$id"
  ffsuper cancel "$id" --reason 'wrong customer'

exit codes:
  65  it has already ended
{NOT_FOUND}{STORE}""",
    "workers": f"""\
examples:
  ffsuper workers
  ffsuper workers --json | jq -r '.[] | select(.state == "stuck") | .instance_id'

exit codes:
{STORE}""",
    "lanes": f"""\
examples:
  ffsuper lanes                           those that workers have ever served
  ffsuper lanes --lane bulk --json

exit codes:
{STORE}""",
    "top": f"""\
examples:
  ffsuper top                             q ends it
  ffsuper top --interval 5 --store redis://db
  ffsuper top --once --json

exit codes:
{STORE}""",
    "quiet": f"""\
examples:
  ffsuper quiet thumbnails@web1
  ffsuper quiet thumbnails@web1 --wait 10 && ffsuper workers

exit codes:
{NO_WORKER}""",
    "resume": f"""\
examples:
  ffsuper resume thumbnails@web1
  ffsuper resume thumbnails@web1 --wait 10

exit codes:
{NO_WORKER}""",
    "drain": f"""\
examples:
  ffsuper drain thumbnails@web1           as SIGTERM does, from anywhere
  ffsuper drain thumbnails@web1 --wait 600 && echo it has ended

exit codes:
{NO_WORKER}""",
    "replay": f"""\
examples:
  ffsuper replay "$id"                    as a new attempt, with the same payload
  ffsuper replay "$id" --server https://ff.example.org --json

exit codes:
  65  it has not ended, or was replayed too often
{NOT_FOUND}{STORE}""",
    "library": f"""\
examples:
  ffsuper library --store redis://db
  ffsuper library --load --config worker.toml    before workers of this version start

exit codes:
  0   told; with --load: ours are loaded, but in place of foreign ones only where the
      configuration of --config has [store] library = "replace"
{AWAY}{UNSUITABLE}{ACCESS}""",
    "completion": """\
examples:
  ffsuper completion bash > ~/.local/share/bash-completion/completions/ffsuper
  ffsuper completion zsh > ~/.zfunc/_ffsuper     a folder of $fpath, before compinit
  ffsuper completion fish > ~/.config/fish/completions/ffsuper.fish
""",
}

// A Helia node for the tests: one JSON object a line on stdin asks, one on stdout answers.
//   {"add": PATH}                  -> {"cid"}    a file or a folder, the importer's own defaults
//   {"add": PATH, "options": {..}} -> {"cid"}    with the importer's options; `rabin` and `trickle` are made of true
//   {"dial": MULTIADDR}            -> {}
//   {"get": CID, "to": PATH}       -> {}         a file, a folder, or a symlink's target as a symlink
// The first line, unasked: {"id", "addr"}. What fails: {"error"}. It ends when stdin does.
import fs from 'node:fs'
import path from 'node:path'
import readline from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { withBitswap } from '@helia/bitswap'
import { withLibp2pLight } from '@helia/libp2p'
import { globSource, unixfs } from '@helia/unixfs'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { MemoryBlockstore } from 'blockstore-core'
import { MemoryDatastore } from 'datastore-core'
import { createHeliaLight } from 'helia'
import { rabin } from 'ipfs-unixfs-importer/chunker'
import { trickle } from 'ipfs-unixfs-importer/layout'
import { CID } from 'multiformats/cid'

const light = createHeliaLight({ blockstore: new MemoryBlockstore(), datastore: new MemoryDatastore() })
const built = withBitswap(withLibp2pLight(light, {
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify() }
}))
const node = (await built.start()) ?? built
const files = unixfs(node)

async function add (from, { rabin: byRabin, trickle: asTrickle, ...options } = {}) {
  if (byRabin) options.chunker = rabin({ avgChunkSize: 262144 })
  if (asTrickle) options.layout = trickle()
  if (!fs.statSync(from).isDirectory()) {
    return files.addByteStream(fs.createReadStream(from, { highWaterMark: 1 << 20 }), options)
  }
  let last
  for await (const entry of files.addAll(globSource(from, '**/*', { hidden: true }), { ...options, wrapWithDirectory: true })) last = entry
  return last.cid
}

async function save (cid, to) {
  const stat = await files.stat(cid)
  if (stat.type === 'directory') {
    fs.mkdirSync(to)
    for await (const entry of files.ls(cid)) await save(entry.cid, path.join(to, entry.name))
    return
  }
  const out = fs.createWriteStream(to)
  for await (const bytes of files.cat(cid)) {
    if (!out.write(bytes)) await new Promise(resolve => out.once('drain', resolve))
  }
  await new Promise(resolve => out.end(resolve))
}

async function answer (ask) {
  if (ask.add !== undefined) return { cid: (await add(ask.add, ask.options)).toString() }
  if (ask.dial !== undefined) return void await node.libp2p.dial(multiaddr(ask.dial)) ?? {}
  if (ask.get !== undefined) return void await save(CID.parse(ask.get), ask.to) ?? {}
  throw new Error('what is asked?')
}

const say = line => process.stdout.write(JSON.stringify(line) + '\n')
say({ id: node.libp2p.peerId.toString(), addr: node.libp2p.getMultiaddrs()[0].toString() })
for await (const line of readline.createInterface({ input: process.stdin })) {
  try {
    say(await answer(JSON.parse(line)))
  } catch (error) {
    say({ error: error.stack ?? String(error) })
  }
}
process.exit(0)

<?php
/**
 * Sends pictures to the service, in the background.
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

/** One picture of a user: what it is, whether the service has it, and when to try again. */
final class Sender {

	public const EXAMINE = 'avatarmod_examine';

	private const FIRST_WAIT_S  = MINUTE_IN_SECONDS;
	private const LONGEST_WAIT_S = HOUR_IN_SECONDS;

	/** Look at somebody's picture as soon as this page is done; nobody waits for it. */
	public static function examine_later( int $user_id, int $wait_s = 0 ): void {
		if ( wp_next_scheduled( self::EXAMINE, array( $user_id ) ) ) {
			return;
		}
		wp_schedule_single_event( time() + $wait_s, self::EXAMINE, array( $user_id ) );
		if ( 0 === $wait_s ) {
			spawn_cron();
		}
	}

	/** Find out which picture somebody has, and send it if the service does not know it yet. */
	public static function examine( int $user_id ): void {
		$picture = Sources::of_user( $user_id );
		if ( null === $picture ) {
			if ( array() === Record::of( $user_id )->hidden ) {
				Record::of( $user_id )->delete();
			}
			return;
		}
		$upload_id = Settings::prefix() . $user_id . '/' . sha1_file( $picture->path );
		$record    = Record::locked(
			$user_id,
			static function ( Record $record ) use ( $upload_id, $picture ) {
				if ( $record->upload_id !== $upload_id ) {
					Vault::empty_of( $record );
					$record->begin( $upload_id, $picture->stamp() );
				}
				$record->stamp = $picture->stamp();
				if ( 'blocked' === $record->state ) {
					Vault::hide( $record, $picture );
				}
				$record->save();
				return $record;
			}
		);
		if ( Record::UNSENT === $record->state ) {
			self::send( $record, $picture );
		}
	}

	/** Examine whoever is waiting to be sent and due; how many were. */
	public static function send_due( int $most ): int {
		$done = 0;
		foreach ( self::users( array( Record::UNSENT ), $most ) as $user_id ) {
			if ( Record::of( $user_id )->next_try <= time() ) {
				self::examine( $user_id );
				++$done;
			}
		}
		return $done;
	}

	/**
	 * Users whose picture is in one of these states, those who have waited longest by their ids first.
	 *
	 * @param string[] $states Of Record::STATE.
	 * @return int[]
	 */
	public static function users( array $states, int $most ): array {
		$found = get_users(
			array(
				'fields'     => 'ID',
				'number'     => $most,
				'orderby'    => 'ID',
				'meta_query' => array( // phpcs:ignore WordPress.DB.SlowDBQuery -- Indexed by its key.
					array(
						'key'     => Record::STATE,
						'value'   => $states,
						'compare' => 'IN',
					),
				),
			)
		);
		return array_map( 'intval', $found );
	}

	/** Send somebody's picture as if it had never been sent; the service knows what it knows. */
	public static function again( int $user_id ): void {
		$record = Record::of( $user_id );
		if ( '' !== $record->upload_id && array() === $record->hidden ) {
			$record->begin( $record->upload_id, $record->stamp );
			$record->save();
		}
		wp_clear_scheduled_hook( self::EXAMINE, array( $user_id ) );
		self::examine_later( $user_id );
	}

	/** Forget somebody who is deleted, and what was hidden of them. */
	public static function forget( int $user_id ): void {
		Vault::empty_of( Record::of( $user_id ) );
		Record::of( $user_id )->delete();
	}

	/** Send one picture and note what came of it. */
	private static function send( Record $record, Picture $picture ): void {
		$api   = Api::of_site();
		$bytes = file_get_contents( $picture->path ); // phpcs:ignore WordPress.WP.AlternativeFunctions -- A local file.
		if ( null === $api || false === $bytes ) {
			$why = null === $api ? __( 'Not connected yet.', 'avatarmod' ) : __( 'The file cannot be read.', 'avatarmod' );
			self::later( $record, $why, self::LONGEST_WAIT_S );
			return;
		}
		if ( substr( $record->upload_id, -40 ) !== sha1( $bytes ) ) {
			// Replaced since its id was made.
			self::examine_later( $record->user_id );
			return;
		}
		$answer = $api->send( $record->upload_id, $bytes, (string) $record->user_id, self::language( $record->user_id ) );
		if ( $answer->is_ok() ) {
			Settings::note( 'fault', null );
			self::take( $api, $answer );
		} elseif ( $answer->refuses_picture() ) {
			self::reject( $record, __( 'The picture is too large.', 'avatarmod' ) );
		} elseif ( $answer->knows_another() ) {
			// What is said of that one is not about this one.
			$record->upload_id = '';
			self::reject( $record, __( 'The picture cannot be told from another one. Save it anew and choose it again.', 'avatarmod' ) );
		} elseif ( $answer->is_transient() ) {
			$wait_s = min( self::LONGEST_WAIT_S, self::FIRST_WAIT_S * 2 ** min( $record->attempts, 10 ) );
			self::later( $record, $answer->error, max( $answer->retry_after, $wait_s ) );
		} else {
			// Nothing that waiting helps: a wrong key, a wrong address. An administrator is told.
			Settings::note( 'fault', $answer->error );
			self::later( $record, $answer->error, self::LONGEST_WAIT_S );
		}
	}

	/** The service's own word counts: it may have known this picture, and decided, long ago. */
	private static function take( Api $api, Answer $answer ): void {
		$data = $answer->data;
		if ( empty( $data['created'] ) ) {
			$known = $api->avatar( (string) $data['upload_id'] );
			$data  = $known->is_ok() ? $known->data['data'] : $data;
		}
		Verdicts::take( $data );
	}

	/** Only another picture helps; its owner is told. */
	private static function reject( Record $record, string $why ): void {
		$record->state  = 'rejected';
		$record->reason = $why;
		$record->save();
	}

	/** Try again after a while. */
	private static function later( Record $record, string $why, int $wait_s ): void {
		++$record->attempts;
		$record->error    = $why;
		$record->next_try = time() + $wait_s;
		$record->save();
		self::examine_later( $record->user_id, $wait_s );
	}

	/** What the service shall tell reasons in. */
	private static function language( int $user_id ): string {
		return 0 === strpos( get_user_locale( $user_id ), 'zh' ) ? 'zh-CN' : 'en';
	}
}
